-- Version 3: labels of pods. Thousands of rows in a row have the same: at level 1 they take 2.3 bytes a row, at level 3 0.03.

ALTER TABLE profile.in_process_local
    MODIFY COLUMN `k8s_label` Map(LowCardinality(String), String) CODEC(ZSTD(3)),
    MODIFY COLUMN `k8s_annotation` Map(LowCardinality(String), String) CODEC(ZSTD(3))
