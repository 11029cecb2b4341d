//! The virtual clock that thins a CPU's ticks to a policy's rate.

/// Whether tick number `tick` of a CPU that ticks at `node_rate` is kept at `rate`.
///
/// Each CPU counts its ticks, idle ones included; the kept ones are those at which
/// `⌊(tick + 1) · rate / node_rate⌋` steps up, `rate` of every `node_rate` in a row.
/// No process needs a state of its own for that. A `rate` at or above `node_rate`
/// keeps every tick, 0 none.
#[inline(always)]
pub fn keeps(tick: u64, rate: u32, node_rate: u32) -> bool {
    if rate >= node_rate {
        return rate != 0;
    }
    // Only the remainder matters, and it keeps the product small for any tick.
    let tick = tick % node_rate as u64;
    (tick + 1) * rate as u64 / node_rate as u64 != tick * rate as u64 / node_rate as u64
}

#[cfg(test)]
mod tests {
    use super::keeps;

    #[test]
    fn keeps_rate_of_node_rate_in_any_window() {
        for node_rate in [1, 7, 99, 499, 997, 1000] {
            for rate in 0..=node_rate {
                for start in [0_u64, 3, 1 << 40] {
                    let kept = (start..start + u64::from(node_rate)).filter(|&n| keeps(n, rate, node_rate));
                    assert_eq!(kept.count(), rate as usize, "rate {rate} of {node_rate} from {start}");
                }
            }
        }
    }

    #[test]
    fn is_the_step_of_the_floor_for_any_tick() {
        for node_rate in [1_u32, 2, 99, 499, 997, 1000] {
            for rate in (1..=node_rate).step_by(7) {
                let floor = |n: u128| n * u128::from(rate) / u128::from(node_rate);
                for start in [0_u64, 1 << 32, u64::MAX - 2000] {
                    for tick in start..start + 1000 {
                        let n = u128::from(tick);
                        let expected = floor(n + 1) != floor(n);
                        assert_eq!(
                            keeps(tick, rate, node_rate),
                            expected,
                            "tick {tick}, {rate} of {node_rate}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_rate_above_the_node_rate_keeps_all() {
        assert!((0..100).all(|n| keeps(n, 500, 99)));
        assert!(!keeps(0, 0, 0));
    }
}
