-- Version 2: every documented tag, what was lost, rollups.

ALTER TABLE profile.in_process_local
    ADD COLUMN IF NOT EXISTS `region` LowCardinality(String),
    ADD COLUMN IF NOT EXISTS `az` LowCardinality(String),
    ADD COLUMN IF NOT EXISTS `host_ip` LowCardinality(String) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS `host_hostname` LowCardinality(String) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS `pod_ip` LowCardinality(String) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS `ip` LowCardinality(String) ALIAS if(pod_ip = '', host_ip, pod_ip),
    ADD COLUMN IF NOT EXISTS `pod_service` LowCardinality(String),
    ADD COLUMN IF NOT EXISTS `pod_group_type` UInt8 COMMENT '0 none, 130 Deployment, 131 StatefulSet, 132 ReplicationController, 133 DaemonSet, 134 ReplicaSet, 135 CloneSet' CODEC(T64, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS `k8s_label` Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS `k8s_annotation` Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    -- The same value in long runs, three times: a quarter of a byte a row less each.
    MODIFY COLUMN `pod_node` LowCardinality(String) CODEC(ZSTD(1)),
    MODIFY COLUMN `host` LowCardinality(String) CODEC(ZSTD(1)),
    MODIFY COLUMN `agent` LowCardinality(String) CODEC(ZSTD(1))
;
-- What an agent lost in a window and is in no row. A batch that was dropped because it was too old stands here too.
CREATE TABLE IF NOT EXISTS profile.losses
(
    `time` DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    `batch` UInt64 CODEC(ZSTD(1)),
    `pod_cluster` LowCardinality(String),
    `pod_node` LowCardinality(String),
    `reason` LowCardinality(String) COMMENT 'queue-full, counts-full, ring-full, too-old, unspecified',
    `samples` UInt64 CODEC(T64, ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toStartOfDay(time)
ORDER BY (time, pod_cluster, pod_node)
TTL time + toIntervalSecond({hour_ttl})
SETTINGS ttl_only_drop_parts = 1
;
-- Minutes. A closed hour is built from raw as a whole and swapped, so the two cannot drift apart.
-- The comparisons in the partition key are always true: for the columns of that key ClickHouse keeps the least and the
-- greatest value of each part, so that it is known without reading a row what a partition was built from, and by which build.
CREATE TABLE IF NOT EXISTS profile.in_process_1m
(
    `time` DateTime('UTC') COMMENT 'start of the minute' CODEC(DoubleDelta, ZSTD(1)),
    `built_from` UInt64 COMMENT 'raw rows that this hour was built from, the same in all its rows' CODEC(T64, ZSTD(1)),
    `build` UInt64 COMMENT 'which build wrote it, the same in all rows of this hour' CODEC(T64, ZSTD(1)),
    `app_service` LowCardinality(String),
    `profile_event_type` LowCardinality(String),
    `profile_language_type` LowCardinality(String),
    `profile_value_unit` LowCardinality(String),
    `pod_cluster` LowCardinality(String),
    `pod_ns` LowCardinality(String),
    `pod_node` LowCardinality(String),
    `pod_group` LowCardinality(String),
    `pod_group_type` UInt8 CODEC(T64, ZSTD(1)),
    `container` LowCardinality(String),
    `process_name` LowCardinality(String),
    `thread_name` LowCardinality(String),
    `main_thread` UInt8,
    `stack_id` LowCardinality(FixedString(16)) CODEC(ZSTD(1)),
    `stack_end` Enum8('complete' = 0, 'truncated' = 1, 'no-unwind-info' = 2, 'jit' = 3, 'lost' = 4, 'counted' = 5),
    `period` UInt32 COMMENT 'microseconds that one sample stands for' CODEC(T64, ZSTD(1)),
    `sample_count` UInt64 CODEC(T64, ZSTD(1)),
    `profile_value` Int64 COMMENT 'microseconds' CODEC(T64, ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY (toStartOfHour(time), built_from > 0, build > 0)
PRIMARY KEY (app_service, profile_event_type, profile_language_type, pod_ns)
ORDER BY (app_service, profile_event_type, profile_language_type, pod_ns, stack_id, time)
TTL time + toIntervalSecond({minute_ttl})
SETTINGS ttl_only_drop_parts = 1
;
-- Hours. A closed day is built from the minutes, and summed up once more in the projection, from which whole days are answered.
CREATE TABLE IF NOT EXISTS profile.in_process_1h
(
    `time` DateTime('UTC') COMMENT 'start of the hour' CODEC(DoubleDelta, ZSTD(1)),
    `built_from` UInt64 COMMENT 'raw rows that the minutes of this day were built from, the same in all its rows' CODEC(T64, ZSTD(1)),
    `build` UInt64 COMMENT 'which build wrote it, the same in all rows of this day' CODEC(T64, ZSTD(1)),
    `app_service` LowCardinality(String),
    `profile_event_type` LowCardinality(String),
    `profile_language_type` LowCardinality(String),
    `profile_value_unit` LowCardinality(String),
    `pod_cluster` LowCardinality(String),
    `pod_ns` LowCardinality(String),
    `pod_node` LowCardinality(String),
    `pod_group` LowCardinality(String),
    `pod_group_type` UInt8 CODEC(T64, ZSTD(1)),
    `container` LowCardinality(String),
    `process_name` LowCardinality(String),
    `thread_name` LowCardinality(String),
    `main_thread` UInt8,
    `stack_id` LowCardinality(FixedString(16)) CODEC(ZSTD(1)),
    `stack_end` Enum8('complete' = 0, 'truncated' = 1, 'no-unwind-info' = 2, 'jit' = 3, 'lost' = 4, 'counted' = 5),
    `period` UInt32 COMMENT 'microseconds that one sample stands for' CODEC(T64, ZSTD(1)),
    `sample_count` UInt64 CODEC(T64, ZSTD(1)),
    `profile_value` Int64 COMMENT 'microseconds' CODEC(T64, ZSTD(1)),
    PROJECTION by_day
    (
        SELECT
            toStartOfDay(time) AS day, app_service, profile_event_type, profile_language_type, profile_value_unit, pod_cluster, pod_ns, pod_node,
            pod_group, pod_group_type, container, process_name, thread_name, main_thread, stack_id, stack_end, period,
            sum(toUInt64(sample_count)), sum(profile_value)
        GROUP BY
            day, app_service, profile_event_type, profile_language_type, profile_value_unit, pod_cluster, pod_ns, pod_node,
            pod_group, pod_group_type, container, process_name, thread_name, main_thread, stack_id, stack_end, period
    )
)
ENGINE = MergeTree
PARTITION BY (toStartOfDay(time), built_from > 0, build > 0)
PRIMARY KEY (app_service, profile_event_type, profile_language_type, pod_ns)
ORDER BY (app_service, profile_event_type, profile_language_type, pod_ns, stack_id, time)
TTL time + toIntervalSecond({hour_ttl})
SETTINGS ttl_only_drop_parts = 1
;
-- The documented name: rows with their stack in plain text and every collected tag; every row again under 'Total'.
-- The rows that were asked for are kept, stacks stream past them: there are more stacks in the table than fit into memory.
CREATE OR REPLACE VIEW profile.in_process AS
SELECT
    r.* EXCEPT (k8s_label, k8s_annotation, pod_ip) REPLACE (r.app_service AS app_service, lower(hex(r.stack_id)) AS stack_id),
    bitShiftRight(sipHash64(r.app_service, r.batch, r.policy, r.process_id, r.process_start_time, r.thread_name, r.main_thread, r.stack_id, r.stack_end, r.cpu), 1) AS `_id`,
    r.k8s_label AS `k8s.label`,
    r.k8s_annotation AS `k8s.annotation`,
    r.pod_service AS service,
    r.process_name AS gprocess,
    r.ip AS ip,
    r.host_ip AS pod_node_ip,
    r.host_hostname AS pod_node_hostname,
    isIPv4String(CAST(r.ip, 'String')) AS is_ipv4,
    r.agent AS vtap,
    concat('[t] ', r.thread_name, multiIf(r.stack_id = toFixedString('', 16), '', s.frames = '', ';[stack trace lost]', concat(';',
        replaceAll(s.frames, '[/tmp/perf-PID.map]', concat('[/tmp/perf-', toString(r.process_id), '.map]'))))) AS profile_location_str
FROM profile.stacks AS s
ANY RIGHT JOIN profile.in_process_local AS r ON r.app_service = s.app_service AND r.stack_id = s.stack_id
WHERE r.app_service NOT IN ('', 'Total')
SETTINGS join_algorithm = 'grace_hash', max_bytes_in_join = 268435456, join_use_nulls = 0
UNION ALL
SELECT
    r.* EXCEPT (k8s_label, k8s_annotation, pod_ip) REPLACE ('Total' AS app_service, lower(hex(r.stack_id)) AS stack_id),
    bitShiftRight(sipHash64('Total', r.batch, r.policy, r.process_id, r.process_start_time, r.thread_name, r.main_thread, r.stack_id, r.stack_end, r.cpu), 1) AS `_id`,
    r.k8s_label AS `k8s.label`,
    r.k8s_annotation AS `k8s.annotation`,
    r.pod_service AS service,
    r.process_name AS gprocess,
    r.ip AS ip,
    r.host_ip AS pod_node_ip,
    r.host_hostname AS pod_node_hostname,
    isIPv4String(CAST(r.ip, 'String')) AS is_ipv4,
    r.agent AS vtap,
    concat('[p] ', r.process_name, if(r.main_thread, '', concat(';[t] ', r.thread_name))) AS profile_location_str
FROM profile.in_process_local AS r
