//! Rows as ClickHouse takes them; field names are the columns'.

use clickhouse::Row;
use serde::Serialize;

use super::{self as store, Batch, StackText};
use crate::metrics::Lost;

/// All our rows: CPU time, taken by eBPF, in microseconds.
const EVENT: &str = "on-cpu";
const LANGUAGE: &str = "eBPF";
const UNIT: &str = "microseconds";

/// A row of `in_process_local`.
#[derive(Debug, Row, Serialize)]
pub(super) struct SampleRow<'a> {
    time: u32,
    batch: u64,
    app_service: &'a str,
    app_instance: &'a str,
    policy: &'a str,
    process_id: u32,
    process_start_time: i64,
    process_name: &'a str,
    thread_name: &'a str,
    main_thread: u8,
    stack_id: [u8; 16],
    stack_end: i8,
    cpu: u16,
    sample_count: u32,
    profile_value: i64,
    profile_value_unit: &'a str,
    profile_event_type: &'a str,
    profile_language_type: &'a str,
    profile_create_timestamp: i64,
    profile_in_timestamp: i64,
    pod_cluster: &'a str,
    pod_ns: &'a str,
    pod_node: &'a str,
    pod_group: &'a str,
    pod: &'a str,
    container: &'a str,
    host: &'a str,
    agent: &'a str,
    trace_id: &'a str,
    span_name: &'a str,
    profile_id: &'a str,
    region: &'a str,
    az: &'a str,
    host_ip: &'a str,
    host_hostname: &'a str,
    pod_ip: &'a str,
    pod_service: &'a str,
    pod_group_type: u8,
    k8s_label: &'a [(Box<str>, Box<str>)],
    k8s_annotation: &'a [(&'a str, &'a str)],
}

impl<'a> SampleRow<'a> {
    pub(super) fn new(
        batch: &'a Batch,
        row: &'a store::Row,
        cluster: Option<&'a str>,
        now_micros: i64,
    ) -> Self {
        let store::Row { process, thread_name, main_thread, stack, end, cpu, samples, value_micros } = row;
        let node = &*batch.agent.node;
        let pod = process.pod.as_deref();
        let of_pod = |text: fn(&store::PodInfo) -> &str| pod.map_or("", text);
        Self {
            time: batch.time,
            batch: batch.key,
            app_service: &process.app_service,
            // As DeepFlow's, where nothing says better.
            app_instance: &process.app_service,
            policy: &process.policy,
            process_id: process.pid,
            process_start_time: process.start_time_millis,
            process_name: &process.name,
            thread_name,
            main_thread: u8::from(*main_thread),
            stack_id: stack.to_bytes(),
            stack_end: *end as i8,
            cpu: *cpu,
            sample_count: *samples,
            profile_value: *value_micros,
            profile_value_unit: UNIT,
            profile_event_type: EVENT,
            profile_language_type: LANGUAGE,
            profile_create_timestamp: batch.closed_at_micros(),
            profile_in_timestamp: now_micros,
            pod_cluster: cluster.unwrap_or(&batch.agent.cluster),
            pod_ns: of_pod(|pod| &pod.namespace),
            pod_node: node,
            pod_group: of_pod(|pod| &pod.group),
            pod: of_pod(|pod| &pod.name),
            container: &process.container,
            host: node,
            agent: node,
            // Nothing knows of traces yet.
            trace_id: "",
            span_name: "",
            profile_id: "",
            region: &batch.agent.region,
            az: &batch.agent.zone,
            host_ip: &batch.agent.host_ip,
            host_hostname: &batch.agent.host_name,
            pod_ip: of_pod(|pod| &pod.ip),
            pod_service: of_pod(|pod| &pod.service),
            pod_group_type: pod.map_or(0, |pod| pod.group_type),
            k8s_label: pod.map_or(&[], |pod| &pod.labels),
            k8s_annotation: &[],
        }
    }
}

/// A row of `stacks`.
#[derive(Debug, Row, Serialize)]
pub(super) struct StackRow<'a> {
    app_service: &'a str,
    stack_id: [u8; 16],
    frames: &'a str,
    last_seen: u32,
}

impl<'a> StackRow<'a> {
    pub(super) fn new(stack: &'a StackText, now: u32) -> Self {
        let StackText { app_service, id, text } = stack;
        Self { app_service, stack_id: id.to_bytes(), frames: text, last_seen: now }
    }
}

/// A row of `losses`.
#[derive(Debug, Row, Serialize)]
pub(super) struct LossRow<'a> {
    time: u32,
    batch: u64,
    pod_cluster: &'a str,
    pod_node: &'a str,
    reason: &'a str,
    samples: u64,
}

impl<'a> LossRow<'a> {
    pub(super) fn new(batch: &'a Batch, lost: Lost, samples: u64, cluster: Option<&'a str>) -> Self {
        Self {
            time: batch.time,
            batch: batch.key,
            pod_cluster: cluster.unwrap_or(&batch.agent.cluster),
            pod_node: &batch.agent.node,
            reason: lost.text(),
            samples,
        }
    }
}
