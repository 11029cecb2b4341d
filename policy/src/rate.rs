//! Rates: what the node samples at, and what a sample stands for. Which ticks a slower policy keeps is the
//! kernel side's to say (`thin.rs` in `node-agent-ebpf`).

use crate::effective::EffectivePolicy;

/// Samples per second and CPU that a policy gets on a node with this limit. At least 1.
pub fn effective_rate(policy: &EffectivePolicy, max_frequency: u32) -> u32 {
    policy.spec.core().frequency.min(max_frequency).max(1)
}

/// The rate F that every CPU of the node is sampled at: the highest effective rate of the policies that
/// are enabled and select the node, whether or not they match a process. `None`: nothing is to be sampled.
pub fn node_rate(policies: &[EffectivePolicy], max_frequency: u32) -> Option<u32> {
    policies.iter().filter(|policy| policy.enabled()).map(|p| effective_rate(p, max_frequency)).max()
}

/// Microseconds that one sample stands for, by integer division: 10,101 at 99. `rate` is at least 1.
pub fn period_micros(rate: u32) -> u32 {
    1_000_000 / rate.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effective::tests::policy;

    #[test]
    fn the_highest_enabled_rate_wins() {
        let rates = |texts: &[&str]| texts.iter().map(|t| policy("p", t)).collect::<Vec<_>>();
        assert_eq!(node_rate(&rates(&["frequency: 19", "frequency: 499"]), 1000), Some(499));
        assert_eq!(node_rate(&rates(&["{}"]), 1000), Some(99));
        assert_eq!(node_rate(&rates(&["frequency: 999"]), 200), Some(200));
        assert_eq!(node_rate(&rates(&["{frequency: 999, disabled: true}", "frequency: 5"]), 1000), Some(5));
        assert_eq!(node_rate(&rates(&["disabled: true"]), 1000), None);
        assert_eq!(node_rate(&[], 1000), None);
    }

    #[test]
    fn a_period_is_an_integer_division() {
        assert_eq!([99, 1, 1000, 7].map(period_micros), [10_101, 1_000_000, 1000, 142_857]);
    }
}
