//! How much a model thinks: words in one dialect, tokens in the other.

use super::Effort;

/// Most tokens of reasoning for each word. Anthropic takes no less than 1,024.
const BUDGETS: [(Effort, u64); 4] =
    [(Effort::Minimal, 1024), (Effort::Low, 2048), (Effort::Medium, 8192), (Effort::High, 16_384)];

impl Effort {
    /// Most tokens of reasoning.
    pub fn budget(self) -> u64 {
        BUDGETS.iter().find(|(effort, _)| *effort == self).map_or(1024, |(_, budget)| *budget)
    }

    /// The word for so many tokens of reasoning: the least that is not below them.
    pub fn of_budget(tokens: u64) -> Self {
        BUDGETS
            .iter()
            .find(|(_, budget)| tokens <= *budget)
            .map_or(Self::High, |(effort, _)| *effort)
    }

    /// OpenAI's and Anthropic's word. Above `high` there are words that only some models know.
    pub fn of_word(word: &str) -> Option<Self> {
        match word {
            "minimal" => Some(Self::Minimal),
            "low" => Some(Self::Low),
            "medium" => Some(Self::Medium),
            "high" | "xhigh" | "max" => Some(Self::High),
            _ => None,
        }
    }

    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_that_comes_from_a_word_goes_back_to_it() {
        for effort in [Effort::Minimal, Effort::Low, Effort::Medium, Effort::High] {
            assert_eq!(Effort::of_budget(effort.budget()), effort);
            assert_eq!(Effort::of_word(effort.word()), Some(effort));
        }
        assert_eq!(Effort::of_budget(u64::MAX), Effort::High);
        assert_eq!(Effort::of_budget(0), Effort::Minimal);
    }
}
