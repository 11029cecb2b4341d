//! Rates: what the node samples at, and which of its ticks a slower policy keeps.

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

/// Whether tick `n` of a CPU sampled at `node_rate` counts for a policy of `rate`:
/// `floor((n+1) f / F) != floor(n f / F)`. Of any F ticks in a row exactly f are kept, evenly spread.
///
/// Computed with remainders, so that it holds for every `tick` without overflow.
pub fn keeps(tick: u64, rate: u32, node_rate: u32) -> bool {
    if rate >= node_rate {
        return true;
    }
    let (rate, node_rate) = (u64::from(rate), u64::from(node_rate));
    (tick % node_rate) * rate % node_rate + rate >= node_rate
}

/// Microseconds that one sample stands for, by integer division: 10,101 at 99. `rate` is at least 1.
pub fn period_micros(rate: u32) -> u32 {
    1_000_000 / rate.max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn remainders_say_what_the_floors_say(tick in 0..u64::MAX, f in 1u32..=1000, more in 0u32..1000) {
            let node = (f + more).min(1000);
            let floor = |n: u128| n * u128::from(f) / u128::from(node);
            let n = u128::from(tick);
            prop_assert_eq!(keeps(tick, f, node), floor(n + 1) != floor(n));
        }

        #[test]
        fn any_second_keeps_exactly_the_rate(start in 0..u64::MAX / 2, f in 1u32..=1000, more in 0u32..1000) {
            let node = (f + more).min(1000);
            let kept = (start..start + u64::from(node)).filter(|&n| keeps(n, f, node)).count();
            prop_assert_eq!(kept, f as usize);
        }
    }
}
