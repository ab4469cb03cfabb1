//! The grounds of an allowance. Of what was learned or imported there are most often none, and these
//! take no room.

use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::baseline::Grounds;

/// [`Grounds`], written as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stated(Option<Box<Grounds>>);

static NONE: Grounds = Grounds { until: None, approver: None, reason: None };

impl Deref for Stated {
    type Target = Grounds;

    fn deref(&self) -> &Grounds {
        self.0.as_deref().unwrap_or(&NONE)
    }
}

impl From<Grounds> for Stated {
    fn from(grounds: Grounds) -> Self {
        Self((grounds != NONE).then(|| Box::new(grounds)))
    }
}

impl Serialize for Stated {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Grounds::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Stated {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Grounds::deserialize(deserializer).map(Self::from)
    }
}
