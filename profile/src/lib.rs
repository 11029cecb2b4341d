//! The profile model: frames, stacks, stack ids, trees and their writers.
#![forbid(unsafe_code)]
