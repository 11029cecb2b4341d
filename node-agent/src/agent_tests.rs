//! The arithmetic of samples.

use super::*;

#[test]
fn lost_undecided_samples_are_thinned_to_the_nearest() {
    assert_eq!([thinned(499, 99, 499), thinned(1, 99, 499), thinned(3, 99, 499)], [99, 0, 1]);
    assert_eq!(thinned(10, 500, 99), 10, "never more than there were");
}

#[test]
fn a_sample_counts_at_no_rate_above_its_cpus() {
    let kept = |rate, tick| {
        let header = SampleHeader {
            time: 0,
            tick,
            tgid: 1,
            tid: 1,
            cpu: 0,
            rate,
            node_rate: 100,
            user_frames: 0,
            kernel_frames: 0,
            walk_end: 0,
            reserved: 0,
            comm: [0; 16],
        };
        kept_at(&header, 50)
    };
    assert_eq!([kept(49, 0), kept(499, 0)], [Some(49), Some(100)], "decided in the kernel");
    assert_eq!([kept(0, 0), kept(0, 1)], [None, Some(50)], "decided on arrival");
}

#[test]
fn lost_samples_keep_their_cpu_where_the_policy_does() {
    assert_eq!(by_cpu(&[3, 0, 4], true), [(Some(0), 3), (Some(2), 4)]);
    assert_eq!(by_cpu(&[3, 0, 4], false), [(None, 7)]);
}
