//! Zipf-distributed ranks by rejection-inversion (Hörmann and Derflinger 1996, "Rejection-inversion to generate
//! variates from monotone discrete distributions").
//!
//! Rank k of n is drawn with probability proportional to k^-s. No table: memory and set-up don't grow with n, and a draw
//! costs one logarithm and one exponential; almost none is rejected.

use super::random::Random;

/// The distribution over the ranks 0 to n - 1; rank 0 is the most frequent.
#[derive(Clone, Debug)]
pub(crate) struct Zipf {
    ranks: f64,
    exponent: f64,
    /// The integral of the hat at the left end of rank 1 and at the right end of rank n.
    integral_first: f64,
    integral_last: f64,
    /// A draw this near to its rank is accepted without computing anything more.
    accept: f64,
}

impl Zipf {
    /// Zipf with `exponent` (more than zero) over `ranks` (at least one) ranks.
    pub(crate) fn new(ranks: u64, exponent: f64) -> Self {
        assert!(ranks > 0 && exponent > 0.0, "checked with the options");
        let mut zipf = Self { ranks: ranks as f64, exponent, integral_first: 0.0, integral_last: 0.0, accept: 0.0 };
        zipf.integral_first = zipf.integral(1.5) - 1.0;
        zipf.integral_last = zipf.integral(zipf.ranks + 0.5);
        zipf.accept = 2.0 - zipf.integral_inverse(zipf.integral(2.5) - zipf.hat(2.0));
        zipf
    }

    /// Draws a rank.
    #[inline]
    pub(crate) fn draw(&self, random: &mut Random) -> u64 {
        loop {
            let area = self.integral_last + random.unit() * (self.integral_first - self.integral_last);
            let point = self.integral_inverse(area);
            let rank = (point + 0.5).floor().clamp(1.0, self.ranks);
            if rank - point <= self.accept || area >= self.integral(rank + 0.5) - self.hat(rank) {
                return rank as u64 - 1;
            }
        }
    }

    /// x^-s.
    fn hat(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// The integral of the hat: (x^(1-s) - 1) / (1 - s), and ln x where s is 1.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        expm1_over((1.0 - self.exponent) * log) * log
    }

    /// The inverse of [`Self::integral`].
    fn integral_inverse(&self, area: f64) -> f64 {
        // Rounding may carry the product past -1, where the logarithm ends.
        let product = (area * (1.0 - self.exponent)).max(-1.0);
        (ln1p_over(product) * area).exp()
    }
}

/// (e^x - 1) / x, smooth at zero.
fn expm1_over(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.exp_m1() / x } else { 1.0 + x * 0.5 * (1.0 + x / 3.0) }
}

/// ln(1 + x) / x, smooth at zero.
fn ln1p_over(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.ln_1p() / x } else { 1.0 - x * (0.5 - x / 3.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: u32 = 200_000;

    /// Pearson's statistic of the draws against the exact distribution, ranks past 30 taken together.
    fn chi_square(exponent: f64, ranks: u64, drawn_exponent: f64) -> f64 {
        let zipf = Zipf::new(ranks, drawn_exponent);
        let mut random = Random::new(0x5EED, 0);
        let class = |rank: u64| (rank as usize).min(30);
        let mut counts = [0u32; 31];
        for _ in 0..DRAWS {
            let rank = zipf.draw(&mut random);
            assert!(rank < ranks);
            counts[class(rank)] += 1;
        }
        let total: f64 = (1..=ranks).map(|rank| (rank as f64).powf(-exponent)).sum();
        let mut expected = [0.0; 31];
        for rank in 1..=ranks {
            expected[class(rank - 1)] += f64::from(DRAWS) * (rank as f64).powf(-exponent) / total;
        }
        counts.iter().zip(expected).map(|(&count, expected)| (f64::from(count) - expected).powi(2) / expected).sum()
    }

    /// Thirty degrees of freedom: 59.7 is passed by one fair sampler in a thousand. The seed is fixed.
    const CHI_SQUARE_MAX: f64 = 59.7;

    #[test]
    fn draws_follow_the_distribution() {
        for exponent in [0.5, 0.8, 0.99, 1.0, 1.2, 2.0] {
            let statistic = chi_square(exponent, 10_000, exponent);
            assert!(statistic < CHI_SQUARE_MAX, "exponent {exponent}: {statistic}");
        }
    }

    #[test]
    fn the_test_above_sees_a_wrong_exponent() {
        assert!(chi_square(0.99, 10_000, 0.97) > CHI_SQUARE_MAX);
    }

    #[test]
    fn one_rank_is_always_drawn() {
        let zipf = Zipf::new(1, 0.99);
        let mut random = Random::new(1, 0);
        assert!((0..100).all(|_| zipf.draw(&mut random) == 0));
    }
}
