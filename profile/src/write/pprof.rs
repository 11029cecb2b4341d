//! The format of `go tool pprof`: `perftools.profiles.Profile`, gzipped.
//!
//! Written from samples and not from a tree, because a sample carries labels
//! here: thread, process and pod are not frames but what `-tagfocus` and
//! `-tagroot` select and group by. Field numbers are those of
//! <https://github.com/google/pprof/blob/main/proto/profile.proto>.

use std::collections::HashMap;
use std::io::{self, Write as _};

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

/// What a profile says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About<'a> {
    /// What was profiled.
    pub subject: &'a str,
    /// Unix seconds of its start.
    pub from: u32,
    /// How long it was profiled.
    pub seconds: u32,
    /// Shown by `pprof -comments`.
    pub notes: &'a [String],
}

/// Collects samples; [`Pprof::finish`] writes the file.
#[derive(Debug)]
pub struct Pprof {
    profile: Profile,
    strings: HashMap<String, i64>,
    /// Frame to location, which is also its function's number.
    locations: HashMap<String, u64>,
    /// Path to mapping.
    mappings: HashMap<String, u64>,
    samples: i64,
    value: i64,
}

impl Pprof {
    /// A profile without samples.
    pub fn new(about: &About<'_>) -> Self {
        let mut pprof = Self {
            profile: Profile::default(),
            strings: HashMap::new(),
            locations: HashMap::new(),
            mappings: HashMap::new(),
            samples: 0,
            value: 0,
        };
        // The format's own: string 0 is empty, ids begin at 1.
        pprof.string("");
        let samples = pprof.value_type("samples", "count");
        let cpu = pprof.value_type("cpu", "nanoseconds");
        // The first mapping is what pprof calls the file of the profile.
        pprof.mapping(about.subject);
        let comments: Vec<i64> = about.notes.iter().map(|note| pprof.string(note)).collect();
        let profile = &mut pprof.profile;
        profile.default_sample_type = cpu.kind;
        profile.period_type = Some(cpu.clone());
        profile.sample_type = vec![samples, cpu];
        profile.time_nanos = i64::from(about.from) * 1_000_000_000;
        profile.duration_nanos = i64::from(about.seconds) * 1_000_000_000;
        profile.comment = comments;
        pprof
    }

    /// Adds a stack, root first, that was seen in `samples` samples and took
    /// `value` microseconds. Labels without text are left out.
    pub fn add<I>(&mut self, frames: I, labels: &[(&str, &str)], samples: i64, value: i64)
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut location_id: Vec<u64> =
            frames.into_iter().map(|frame| self.location(frame.as_ref())).collect();
        location_id.reverse();
        let label = labels
            .iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(key, text)| Label { key: self.string(key), str: self.string(text) })
            .collect();
        let value_of = vec![samples, value.saturating_mul(1000)];
        self.profile.sample.push(Sample { location_id, value: value_of, label });
        self.samples = self.samples.saturating_add(samples);
        self.value = self.value.saturating_add(value);
    }

    /// The file.
    pub fn finish(mut self) -> Vec<u8> {
        // Policies sample at different rates: the period is the mean.
        self.profile.period = self.value.saturating_mul(1000).checked_div(self.samples).unwrap_or(0);
        gzip(&self.profile.encode_to_vec()).expect("writing to memory does not fail")
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(&id) = self.strings.get(text) {
            return id;
        }
        let id = i64::try_from(self.strings.len()).expect("bounded far below 2^63 strings");
        self.strings.insert(text.to_owned(), id);
        self.profile.string_table.push(text.to_owned());
        id
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> ValueType {
        ValueType { kind: self.string(kind), unit: self.string(unit) }
    }

    fn location(&mut self, frame: &str) -> u64 {
        if let Some(&id) = self.locations.get(frame) {
            return id;
        }
        // Only of a frame that names no function is the file known.
        let file = frame.strip_prefix('[').and_then(|f| f.strip_suffix(']')).filter(|f| f.starts_with('/'));
        let mapping_id = file.map_or(0, |file| self.mapping(file));
        let id = self.locations.len() as u64 + 1;
        self.locations.insert(frame.to_owned(), id);
        // A system name would make pprof shorten what looks like C++.
        let name = self.string(frame);
        self.profile.function.push(Function { id, name });
        self.profile.location.push(Location { id, mapping_id, line: vec![Line { function_id: id }] });
        id
    }

    fn mapping(&mut self, file: &str) -> u64 {
        if let Some(&id) = self.mappings.get(file) {
            return id;
        }
        let id = self.mappings.len() as u64 + 1;
        self.mappings.insert(file.to_owned(), id);
        let filename = self.string(file);
        // With functions: pprof need not look for the file on the reader's machine.
        self.profile.mapping.push(Mapping { id, filename, has_functions: true });
        id
    }
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, repeated, tag = "13")]
    comment: Vec<i64>,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    /// Leaf first.
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::Read as _;

    use super::*;

    const NOTES: &[String] = &[];
    const ABOUT: About<'_> = About { subject: "app", from: 100, seconds: 60, notes: NOTES };

    fn read(file: &[u8]) -> Profile {
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
        Profile::decode(bytes.as_slice()).unwrap()
    }

    /// Stacks `a;b samples value key=text …` in; samples, leaf first, with values and labels out.
    fn check(stacks: &str, expected: &str) {
        let mut pprof = Pprof::new(&ABOUT);
        for line in stacks.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let labels: Vec<(&str, &str)> = fields[3..].iter().map(|l| l.split_once('=').unwrap()).collect();
            let frames = fields[0].split(';').map(|frame| frame.replace('_', " "));
            pprof.add(frames, &labels, fields[1].parse().unwrap(), fields[2].parse().unwrap());
        }
        let profile = read(&pprof.finish());
        let string = |at: i64| &profile.string_table[usize::try_from(at).unwrap()];
        let name = |id: &u64| {
            let location = profile.location.iter().find(|l| l.id == *id).unwrap();
            let function = location.line[0].function_id;
            string(profile.function.iter().find(|f| f.id == function).unwrap().name).as_str()
        };
        let text: String = profile
            .sample
            .iter()
            .map(|sample| {
                let names: Vec<&str> = sample.location_id.iter().map(name).collect();
                let labels = sample.label.iter().map(|l| format!(" {}={}", string(l.key), string(l.str)));
                format!("{} {:?}{}\n", names.join(" < "), sample.value, labels.collect::<String>())
            })
            .collect();
        assert_eq!(text, expected);
    }

    #[test]
    fn samples_are_leaf_first_with_labels() {
        check(
            "main;f;[k]_read 3 30303 thread=io pid=7 pod=\nmain 1 10101",
            "[k] read < f < main [3, 30303000] thread=io pid=7\nmain [1, 10101000]\n",
        );
    }

    #[test]
    fn a_recursive_function_is_one_function() {
        check("f;f;f 1 5", "f < f < f [1, 5000]\n");
        let mut pprof = Pprof::new(&ABOUT);
        pprof.add(["f", "f"], &[], 1, 5);
        assert_eq!(read(&pprof.finish()).function.len(), 1);
    }

    #[test]
    fn the_head_says_what_when_and_in_which_units() {
        let notes = ["a note".to_owned()];
        let mut pprof = Pprof::new(&About { notes: &notes, ..ABOUT });
        pprof.add(["f"], &[], 4, 40_404);
        let profile = read(&pprof.finish());
        let string = |at: i64| profile.string_table[usize::try_from(at).unwrap()].as_str();
        let types: Vec<(&str, &str)> =
            profile.sample_type.iter().map(|t| (string(t.kind), string(t.unit))).collect();
        assert_eq!(types, [("samples", "count"), ("cpu", "nanoseconds")]);
        assert_eq!(string(0), "");
        assert_eq!(string(profile.default_sample_type), "cpu");
        assert_eq!(profile.period_type, Some(profile.sample_type[1].clone()));
        assert_eq!(profile.period, 10_101_000);
        assert_eq!((profile.time_nanos, profile.duration_nanos), (100_000_000_000, 60_000_000_000));
        assert_eq!(profile.comment.iter().map(|c| string(*c)).collect::<Vec<_>>(), ["a note"]);
    }

    #[test]
    fn a_file_is_known_only_of_a_frame_that_is_one() {
        let mut pprof = Pprof::new(&ABOUT);
        pprof.add(["main", "[/usr/bin/x]", "[unknown] 0x00", "[k] /x", "[/usr/bin/x]"], &[], 1, 1);
        let profile = read(&pprof.finish());
        let string = |at: i64| profile.string_table[usize::try_from(at).unwrap()].as_str();
        let files: Vec<(u64, &str)> = profile.mapping.iter().map(|m| (m.id, string(m.filename))).collect();
        assert_eq!(files, [(1, "app"), (2, "/usr/bin/x")]);
        assert!(profile.mapping.iter().all(|m| m.has_functions));
        let of_locations: Vec<u64> = profile.location.iter().map(|l| l.mapping_id).collect();
        assert_eq!(of_locations, [0, 2, 0, 0]);
    }

    #[test]
    fn no_samples_are_a_profile_too() {
        let profile = read(&Pprof::new(&ABOUT).finish());
        assert_eq!((profile.sample.len(), profile.period), (0, 0));
    }
}
