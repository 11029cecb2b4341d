ARG BASE=gcr.io/distroless/cc-debian12
FROM ${BASE}
COPY hearth-operator /usr/bin/
USER 65532:65532
ENTRYPOINT ["/usr/bin/hearth-operator"]
