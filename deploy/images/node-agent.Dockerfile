# The node agent. Root, because a capability that a container adds is a root process's only.
ARG BASE=gcr.io/distroless/cc-debian12
FROM ${BASE}
COPY hearth-node-agent /usr/bin/
USER 0:0
ENTRYPOINT ["/usr/bin/hearth-node-agent"]
