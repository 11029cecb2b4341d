//! A collector with its embedded store, to send to and to ask.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use hearth_proto::collector::v1::SampleBatch;
use hearth_proto::collector::v1::collector_client::CollectorClient;
use rustix::process::Signal;
use tokio::sync::{Barrier, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use crate::Bench;
use crate::child::{self, Running, wait_until};
use crate::profiler::free_port;

/// A running collector.
pub(crate) struct Store {
    running: Running,
    http: String,
    grpc: String,
    clickhouse: String,
    password: String,
}

/// What the collector is asked.
#[derive(Debug)]
pub(crate) enum Question {
    /// `/api/v1/flamegraph` with this query.
    Flamegraph(String),
    /// DeepFlow's, with this body.
    ProfileTracing(String),
}

/// What a table takes on the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) rows: f64,
    pub(crate) bytes: f64,
    pub(crate) parts: f64,
}

impl Size {
    pub(crate) fn per_row(self) -> f64 {
        self.bytes / self.rows
    }
}

impl Store {
    /// Starts it on the data in `dir` and waits until it is ready.
    pub(crate) fn start(bench: &Bench, libchdb: &Path, dir: &Path) -> anyhow::Result<Self> {
        let address = || -> anyhow::Result<String> { Ok(format!("127.0.0.1:{}", free_port()?)) };
        let (http, grpc, clickhouse) = (address()?, address()?, address()?);
        let mut command = Command::new(bench.bin.join("hearth-collector"));
        command.args(["--http", &http, "--grpc", &grpc, "--clickhouse-http", &clickhouse]);
        command.arg("--data-dir").arg(dir).arg("--libchdb").arg(libchdb);
        let log = bench.dir.path().join("collector.log");
        let mut running = Running::start(command, "hearth-collector", &log)?;
        let ready = format!("http://{http}/readyz");
        wait_until("hearth-collector", || {
            running.check_alive(&log)?;
            let answer = bench.runtime.block_on(bench.http.get(&ready).send());
            Ok(answer.is_ok_and(|answer| answer.status().is_success()))
        })?;
        let password = std::fs::read_to_string(dir.join("clickhouse-password"))?;
        Ok(Self {
            running,
            http,
            grpc: format!("http://{grpc}"),
            clickhouse: format!("http://{clickhouse}/"),
            password: password.trim().to_owned(),
        })
    }

    pub(crate) fn stop(self) -> anyhow::Result<()> {
        self.running.stop(Signal::TERM)
    }

    /// Runs a statement on the engine itself.
    pub(crate) fn sql(&self, bench: &Bench, sql: &str) -> anyhow::Result<String> {
        self.insert(bench, sql, Vec::new())
    }

    /// Runs a statement that takes data.
    pub(crate) fn insert(&self, bench: &Bench, sql: &str, data: Vec<u8>) -> anyhow::Result<String> {
        bench.runtime.block_on(async {
            let request = bench.http.post(&self.clickhouse).query(&[("query", sql)]).body(data);
            let answer = request.header("X-ClickHouse-Key", &self.password).send().await?;
            let status = answer.status();
            let text = answer.text().await?;
            anyhow::ensure!(status.is_success(), "the engine answers {status} to {sql:?}: {text}");
            Ok(text)
        })
    }

    /// The answer to a statement as it comes.
    pub(crate) fn bytes(&self, bench: &Bench, sql: &str) -> anyhow::Result<Vec<u8>> {
        bench.runtime.block_on(async {
            let request = bench.http.post(&self.clickhouse).body(sql.to_owned());
            let answer = request.header("X-ClickHouse-Key", &self.password).send().await?;
            Ok(answer.error_for_status()?.bytes().await?.into())
        })
    }

    /// CPU seconds since the start, of the collector and of its engine.
    pub(crate) fn cpu(&self) -> anyhow::Result<[f64; 2]> {
        let collector = self.running.pid();
        let engine = child::children(collector)?;
        let engine = engine.iter().map(|pid| child::cpu_seconds(*pid)).sum::<anyhow::Result<f64>>()?;
        Ok([child::cpu_seconds(collector)?, engine])
    }

    /// What the active parts of a table take, indexes and checksums included.
    pub(crate) fn size(&self, bench: &Bench, database: &str, table: &str) -> anyhow::Result<Size> {
        let answer = self.sql(
            bench,
            &format!(
                "SELECT toFloat64(sum(rows)), toFloat64(sum(bytes_on_disk)), toFloat64(count()) FROM system.parts \
                 WHERE active AND database = '{database}' AND table = '{table}' FORMAT TSV"
            ),
        )?;
        let numbers: Vec<f64> = answer.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        match numbers[..] {
            [rows, bytes, parts] => Ok(Size { rows, bytes, parts }),
            _ => anyhow::bail!("system.parts answers {answer:?}"),
        }
    }

    /// Asks the collector; answers the time until the last byte, and how many came.
    pub(crate) fn ask(&self, bench: &Bench, question: &Question) -> anyhow::Result<(Duration, usize)> {
        let request = match question {
            Question::Flamegraph(query) => {
                bench.http.get(format!("http://{}/api/v1/flamegraph?{query}", self.http))
            }
            Question::ProfileTracing(body) => {
                bench.http.post(format!("http://{}/v1/profile/ProfileTracing", self.http)).body(body.clone())
            }
        };
        bench.runtime.block_on(async {
            let started = Instant::now();
            let answer = request.send().await?;
            let status = answer.status();
            let bytes = answer.bytes().await?;
            let time = started.elapsed();
            anyhow::ensure!(
                status.is_success(),
                "{question:?}: {status}: {}",
                String::from_utf8_lossy(&bytes)
            );
            Ok((time, bytes.len()))
        })
    }

    /// Sends one stream per node at once and waits until everything is acknowledged; answers how long it took.
    /// In step, no node sends a window before all have the last one acknowledged.
    pub(crate) fn send(
        &self,
        bench: &Bench,
        nodes: Vec<Vec<SampleBatch>>,
        in_step: bool,
    ) -> anyhow::Result<Duration> {
        let step = in_step.then(|| Arc::new(Barrier::new(nodes.len())));
        bench.runtime.block_on(async {
            let started = Instant::now();
            let streams: Vec<_> = nodes
                .into_iter()
                .map(|batches| tokio::spawn(stream(self.grpc.clone(), batches, step.clone())))
                .collect();
            for stream in streams {
                stream.await??;
            }
            Ok(started.elapsed())
        })
    }
}

async fn stream(url: String, batches: Vec<SampleBatch>, step: Option<Arc<Barrier>>) -> anyhow::Result<()> {
    let mut client = CollectorClient::connect(url).await.context("cannot reach the collector")?;
    let count = batches.len();
    let (sender, outbound) = mpsc::channel(1);
    let call = tokio::spawn(async move { client.export(ReceiverStream::new(outbound)).await });
    let mut batches = batches.into_iter();
    if let Some(first) = batches.next() {
        sender.send(stamped(first)).await?;
    }
    let mut acks = call.await??.into_inner();
    if let Some(step) = step {
        for acknowledged in 1..=count {
            acks.message().await?.context("the collector ended the stream")?;
            step.wait().await;
            if acknowledged < count
                && let Some(batch) = batches.next()
            {
                sender.send(stamped(batch)).await?;
            }
        }
        return Ok(());
    }
    let sending = tokio::spawn(async move {
        for batch in batches {
            if sender.send(stamped(batch)).await.is_err() {
                break;
            }
        }
        sender
    });
    for _ in 0..count {
        acks.message().await?.context("the collector ended the stream")?;
    }
    drop(sending.await?);
    Ok(())
}

/// With the time of its sending, as an agent would stamp it.
fn stamped(mut batch: SampleBatch) -> SampleBatch {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    batch.sent_at_micros = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
    batch
}
