-- Version 1. Statements are separated by a line that holds only ";".
-- {raw_ttl} and the like are filled from the retention flags, in seconds.

CREATE DATABASE IF NOT EXISTS profile
;
-- One row per (window, process, thread name, main thread or not, stack, how it ended, event, policy, cpu).
CREATE TABLE IF NOT EXISTS profile.in_process_local
(
    `time` DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    `batch` UInt64 COMMENT 'xxh3-64 over agent instance and sequence' CODEC(ZSTD(1)),
    `app_service` LowCardinality(String) COMMENT 'empty: no policy matched; such rows have no stack and are seen under Total only',
    `app_instance` LowCardinality(String),
    `policy` LowCardinality(String),
    `process_id` UInt32 COMMENT 'in the pid namespace of the host' CODEC(T64, ZSTD(1)),
    `process_start_time` DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    `process_name` LowCardinality(String) COMMENT 'comm of the leader of the thread group',
    `thread_name` LowCardinality(String),
    `main_thread` UInt8 COMMENT 'tid = tgid',
    `stack_id` LowCardinality(FixedString(16)) COMMENT 'big-endian; zeros: no stack was asked for' CODEC(ZSTD(1)),
    `stack_end` Enum8('complete' = 0, 'truncated' = 1, 'no-unwind-info' = 2, 'jit' = 3, 'lost' = 4, 'counted' = 5),
    `cpu` UInt16 COMMENT '0xfff: not kept by the policy' CODEC(T64, ZSTD(1)),
    `sample_count` UInt32 CODEC(T64, ZSTD(1)),
    `profile_value` Int64 COMMENT 'microseconds' CODEC(T64, ZSTD(1)),
    `profile_value_unit` LowCardinality(String),
    `profile_event_type` LowCardinality(String),
    `profile_language_type` LowCardinality(String),
    `profile_create_timestamp` DateTime64(6, 'UTC') COMMENT 'when the agent closed the window' CODEC(Delta, ZSTD(1)),
    `profile_in_timestamp` DateTime64(6, 'UTC') COMMENT 'when the collector wrote the row' CODEC(Delta, ZSTD(1)),
    `pod_cluster` LowCardinality(String),
    `pod_ns` LowCardinality(String),
    `pod_node` LowCardinality(String),
    `pod_group` LowCardinality(String),
    `pod` LowCardinality(String),
    `container` LowCardinality(String),
    `host` LowCardinality(String),
    `agent` LowCardinality(String),
    `trace_id` String CODEC(ZSTD(1)),
    `span_name` String CODEC(ZSTD(1)),
    `profile_id` String CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toStartOfHour(time)
ORDER BY (app_service, profile_event_type, profile_language_type, pod_ns, pod, time)
TTL time + toIntervalSecond({raw_ttl})
SETTINGS ttl_only_drop_parts = 1
;
-- Every stack of an app once, frames as stored, root first, without [t] and [p].
-- By app first: ids are hashes, and by id alone those of one app would lie in every granule.
CREATE TABLE IF NOT EXISTS profile.stacks
(
    `app_service` LowCardinality(String),
    `stack_id` FixedString(16),
    `frames` String COMMENT 'joined by ;' CODEC(ZSTD(3)),
    `last_seen` DateTime('UTC') CODEC(DoubleDelta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(last_seen)
ORDER BY (app_service, stack_id)
TTL last_seen + toIntervalSecond({stacks_ttl})
;
-- The documented name: rows with their stack in plain text; every row again under 'Total'.
CREATE OR REPLACE VIEW profile.in_process AS
SELECT
    r.* REPLACE (lower(hex(r.stack_id)) AS stack_id),
    concat('[t] ', r.thread_name, multiIf(r.stack_id = toFixedString('', 16), '', s.frames = '', ';[stack trace lost]', concat(';',
        replaceAll(s.frames, '[/tmp/perf-PID.map]', concat('[/tmp/perf-', toString(r.process_id), '.map]'))))) AS profile_location_str
FROM profile.in_process_local AS r
ANY LEFT JOIN profile.stacks AS s ON r.app_service = s.app_service AND r.stack_id = s.stack_id
WHERE r.app_service NOT IN ('', 'Total')
UNION ALL
SELECT
    r.* REPLACE ('Total' AS app_service, lower(hex(r.stack_id)) AS stack_id),
    concat('[p] ', r.process_name, if(r.main_thread, '', concat(';[t] ', r.thread_name))) AS profile_location_str
FROM profile.in_process_local AS r
