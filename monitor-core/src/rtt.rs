//! Round-trip times as they are kept for many: of most edges few were measured, all of them in one
//! bucket, which needs no more room than to say so.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::flow::RttHistogram;

/// A [`RttHistogram`], written as one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rtts(Held);

/// Always the first of these that can hold it, so that equal ones are held alike.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Held {
    #[default]
    None,
    One {
        bucket: u8,
        count: u32,
    },
    Many(Box<RttHistogram>),
}

impl Rtts {
    /// Whether nothing was measured.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        matches!(self.0, Held::None)
    }

    #[must_use]
    pub fn whole(&self) -> RttHistogram {
        match &self.0 {
            Held::None => RttHistogram::default(),
            Held::One { bucket, count } => {
                let mut whole = RttHistogram::default();
                if let Some(held) = whole.0.get_mut(usize::from(*bucket)) {
                    *held = *count;
                }
                whole
            }
            Held::Many(whole) => **whole,
        }
    }

    pub fn add(&mut self, other: &RttHistogram) {
        let mut whole = self.whole();
        whole.add(other);
        *self = Self::from(&whole);
    }
}

impl From<&RttHistogram> for Rtts {
    fn from(whole: &RttHistogram) -> Self {
        let mut measured = (0_u8..).zip(whole.0).filter(|(_, count)| *count != 0);
        Self(match (measured.next(), measured.next()) {
            (None, _) => Held::None,
            (Some((bucket, count)), None) => Held::One { bucket, count },
            (Some(_), Some(_)) => Held::Many(Box::new(*whole)),
        })
    }
}

impl Serialize for Rtts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.whole().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Rtts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let whole = Option::<RttHistogram>::deserialize(deserializer)?;
        Ok(whole.as_ref().map(Self::from).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_the_histogram_that_it_is() {
        let mut whole = RttHistogram::default();
        let mut kept = Rtts::default();
        assert!(kept.is_empty());
        for (bucket, count) in [(3, 1), (3, u32::MAX), (15, 7), (0, 1)] {
            let mut more = RttHistogram::default();
            more.0[bucket] = count;
            whole.add(&more);
            kept.add(&more);
            assert_eq!((kept.whole(), &kept), (whole, &Rtts::from(&whole)));
            let json = serde_json::to_string(&kept).unwrap();
            assert_eq!(json, serde_json::to_string(&whole).unwrap());
            assert_eq!(serde_json::from_str::<Rtts>(&json).unwrap(), kept);
        }
        assert!(!kept.is_empty() && size_of::<Rtts>() == 16);
        assert!(serde_json::from_str::<Rtts>("null").unwrap().is_empty());
    }
}
