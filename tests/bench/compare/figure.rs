//! One measured quantity of one subject: what each round has come to.

/// A quantity of a subject (`direct`, `nginx`, `aisix`, ...) in the unit that its name tells.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What is measured, a stable word: `cpu_us_per_request`.
    pub name: String,
    /// Of whom.
    pub subject: String,
    /// `us`, `ms`, `MiB`, `KiB`, `1/s`.
    pub unit: &'static str,
    /// One value for each round that counts.
    pub rounds: Vec<f64>,
}

impl Figure {
    /// The middle round; of an even number the mean of both. Nothing if no round counts.
    pub fn median(&self) -> Option<f64> {
        let sorted = self.sorted();
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
        Some(f64::midpoint(lower, upper))
    }

    /// How often it is `other`: the median of what each round says, in which both had their turns one soon after the other. A machine
    /// that is shared is not as fast in every round. Where rounds are missing, of the medians.
    pub fn of(&self, other: &Self) -> Option<f64> {
        if other.rounds.iter().any(|round| *round <= 0.0) || other.rounds.is_empty() {
            return None;
        }
        if self.rounds.len() != other.rounds.len() {
            return Some(self.median()? / other.median()?);
        }
        let rounds = self.rounds.iter().zip(&other.rounds).map(|(own, other)| own / other);
        Self { rounds: rounds.collect(), ..self.clone() }.median()
    }

    /// The least round.
    pub fn min(&self) -> Option<f64> {
        self.sorted().first().copied()
    }

    /// The greatest round.
    pub fn max(&self) -> Option<f64> {
        self.sorted().last().copied()
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.rounds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

/// All figures of a run, in the order in which they were first measured.
#[derive(Clone, Debug, Default)]
pub struct Figures(Vec<Figure>);

impl Figures {
    /// Adds what one round has come to.
    pub fn add(&mut self, name: &str, subject: &str, unit: &'static str, value: f64) {
        let known = self.0.iter_mut().find(|it| it.name == name && it.subject == subject);
        match known {
            Some(figure) => figure.rounds.push(value),
            None => self.0.push(Figure {
                name: name.to_owned(),
                subject: subject.to_owned(),
                unit,
                rounds: vec![value],
            }),
        }
    }

    /// Takes in figures that were measured elsewhere.
    pub fn extend(&mut self, figures: Vec<Figure>) {
        self.0.extend(figures);
    }

    /// All of them.
    pub fn all(&self) -> &[Figure] {
        &self.0
    }

    /// The median of a figure, if it was measured.
    pub fn median(&self, name: &str, subject: &str) -> Option<f64> {
        self.find(name, subject).and_then(Figure::median)
    }

    /// How often the figure of a subject is that of another one.
    pub fn ratio(&self, name: &str, subject: &str, other: &str) -> Option<f64> {
        self.find(name, subject)?.of(self.find(name, other)?)
    }

    /// That figure of that subject.
    pub fn find(&self, name: &str, subject: &str) -> Option<&Figure> {
        self.0.iter().find(|it| it.name == name && it.subject == subject)
    }
}

/// The sample that so many hundredths of all lie below or at. Nothing without samples.
pub fn percentile(samples: &mut [u32], hundredths: usize) -> Option<f64> {
    samples.sort_unstable();
    let rank = (samples.len() * hundredths).div_ceil(100).max(1);
    samples.get(rank - 1).map(|sample| f64::from(*sample))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(rounds: &[f64]) -> Figure {
        Figure { name: "n".into(), subject: "s".into(), unit: "us", rounds: rounds.to_vec() }
    }

    #[test]
    fn a_ratio_is_of_the_rounds_of_both_or_else_of_the_medians() {
        // The machine was half as fast in the second round.
        assert_eq!(figure(&[3.0, 6.0, 3.6]).of(&figure(&[2.0, 4.0, 2.0])), Some(1.5));
        assert_eq!(figure(&[3.0, 6.0]).of(&figure(&[2.0, 4.0, 2.0])), Some(2.25));
        assert_eq!(figure(&[3.0]).of(&figure(&[0.0])), None);
        assert_eq!(figure(&[3.0]).of(&figure(&[])), None);
    }

    #[test]
    fn the_median_is_the_middle_round_or_the_mean_of_both() {
        assert_eq!(figure(&[3.0, 1.0, 2.0]).median(), Some(2.0));
        assert_eq!(figure(&[4.0, 1.0, 2.0, 3.0]).median(), Some(2.5));
        assert_eq!(figure(&[7.0]).median(), Some(7.0));
        assert_eq!(figure(&[]).median(), None);
        assert_eq!((figure(&[3.0, 1.0]).min(), figure(&[3.0, 1.0]).max()), (Some(1.0), Some(3.0)));
    }

    #[test]
    fn a_percentile_is_a_sample_that_was_seen() {
        let mut samples: Vec<u32> = (1..=200).rev().collect();
        assert_eq!(percentile(&mut samples, 50), Some(100.0));
        assert_eq!(percentile(&mut samples, 99), Some(198.0));
        assert_eq!(percentile(&mut samples, 100), Some(200.0));
        assert_eq!(percentile(&mut [5], 1), Some(5.0));
        assert_eq!(percentile(&mut [], 50), None);
    }

    #[test]
    fn rounds_of_the_same_figure_are_kept_together() {
        let mut figures = Figures::default();
        figures.add("a", "x", "us", 1.0);
        figures.add("a", "y", "us", 5.0);
        figures.add("a", "x", "us", 3.0);
        assert_eq!(figures.median("a", "x"), Some(2.0));
        assert_eq!(figures.median("a", "y"), Some(5.0));
        assert_eq!(figures.median("b", "x"), None);
        assert_eq!(figures.all().len(), 2);
    }
}
