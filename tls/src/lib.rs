//! TLS of every port and every client.
