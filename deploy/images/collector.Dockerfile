# The collector with its embedded ClickHouse. Its context is a folder with the files below.
ARG BASE=gcr.io/distroless/cc-debian12
FROM ${BASE}
COPY hearth-collector hearth-clickhouse libchdb.so /usr/bin/
USER 65532:65532
ENTRYPOINT ["/usr/bin/hearth-collector"]
