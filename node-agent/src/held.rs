//! Samples of processes that are undecided, until the window ends or they are decided.

use crate::kernel::sample::RawSample;

/// Addresses that are held at most, 8 bytes each: 10,000 stacks of 50 frames.
const MAX_ADDRESSES: usize = 512 << 10;

/// Samples with their stacks, not named yet.
#[derive(Default)]
pub struct Held {
    samples: Vec<RawSample>,
    addresses: usize,
}

impl Held {
    /// Takes a sample, or gives it back where there is no room.
    pub fn push(&mut self, sample: RawSample) -> Option<RawSample> {
        let addresses = self.addresses + size(&sample);
        if addresses > MAX_ADDRESSES {
            return Some(sample);
        }
        self.addresses = addresses;
        self.samples.push(sample);
        None
    }

    /// Gives back those of the processes of which this holds, in their order.
    pub fn take(&mut self, of: impl Fn(u32) -> bool) -> Vec<RawSample> {
        let taken: Vec<_> = self.samples.extract_if(.., |sample| of(sample.header.tgid)).collect();
        self.addresses -= taken.iter().map(size).sum::<usize>();
        taken
    }
}

/// The header is as long as 8 addresses.
fn size(sample: &RawSample) -> usize {
    8 + sample.user.len() + sample.kernel.len()
}

#[cfg(test)]
mod tests {
    use hearth_node_agent_ebpf::record::SampleHeader;

    use super::*;

    fn sample(tgid: u32, frames: usize) -> RawSample {
        let header = SampleHeader {
            time: 0,
            tick: 0,
            tgid,
            tid: tgid,
            cpu: 0,
            rate: 0,
            node_rate: 99,
            user_frames: 0,
            kernel_frames: 0,
            walk_end: 0,
            reserved: 0,
            comm: [0; 16],
        };
        RawSample { header, kernel: Vec::new(), user: vec![0; frames] }
    }

    #[test]
    fn samples_are_given_back_by_their_process() {
        let mut held = Held::default();
        for tgid in [1, 2, 1] {
            assert_eq!(held.push(sample(tgid, 3)), None);
        }
        assert_eq!(held.take(|tgid| tgid == 1), [sample(1, 3), sample(1, 3)]);
        assert_eq!((held.take(|tgid| tgid == 1), held.take(|_| true)), (vec![], vec![sample(2, 3)]));
    }

    #[test]
    fn what_does_not_fit_is_given_back_at_once() {
        let mut held = Held::default();
        let large = MAX_ADDRESSES - 8;
        assert_eq!(held.push(sample(1, large)), None);
        assert_eq!(held.push(sample(2, 0)), Some(sample(2, 0)));
        held.take(|_| true);
        assert_eq!(held.push(sample(2, 0)), None);
    }
}
