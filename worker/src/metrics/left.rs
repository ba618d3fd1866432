//! Where is noted what is left to a caller key, for those that were here lately.

/// Keys and models that are remembered. Where two have the same place, the later one has it.
const PLACES: usize = 256;

/// Where it is noted for some keys and models.
#[derive(Debug)]
pub(super) struct Left {
    places: Box<[Place]>,
    /// For none: every index is one of a place.
    other: Place,
}

/// Where it is noted for one key and one model: the slots, once they were looked up.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    labels: [Box<str>; 2],
    pub(super) requests: Option<usize>,
    pub(super) tokens: Option<usize>,
}

impl Default for Left {
    fn default() -> Self {
        Self { places: vec![Place::default(); PLACES].into(), other: Place::default() }
    }
}

impl Left {
    /// The place for these labels. Where they lie only says where to look: their texts decide.
    pub(super) fn of(&mut self, labels: [&str; 2]) -> &mut Place {
        let [key, model] = labels.map(|label| label.as_ptr().addr());
        let mix = key.wrapping_add(model.rotate_left(9)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let index = mix >> (usize::BITS - PLACES.ilog2());
        let place = self.places.get_mut(index).unwrap_or(&mut self.other);
        if place.labels.iter().zip(labels).any(|(known, label)| **known != *label) {
            *place = Place { labels: labels.map(Box::from), ..Place::default() };
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_that_of_its_labels_whatever_lay_there_before() {
        let mut left = Left::default();
        let mut texts = String::new();
        for number in 0..4 * PLACES {
            // The same memory, and another text each time.
            texts.clear();
            texts.push_str(&format!("k-{:06}m-{:06}", number / 2, number % 3));
            let (key, model) = texts.split_at(8);
            let place = left.of([key, model]);
            assert_eq!(place.requests, None, "{texts}");
            place.requests = Some(number);
            assert_eq!(left.of([key, model]).requests, Some(number));
        }
    }
}
