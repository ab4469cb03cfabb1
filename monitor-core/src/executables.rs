//! The executables of an edge, and the names of them that are told apart only once: ten thousand
//! edges of one service are dialled by the same file.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::HashSet;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::instances::{Instances, Lists};

/// A set of executables, in order; safe text, as [`crate::edge::executable_name`] writes it.
#[derive(Debug, Clone, Default)]
pub struct Executables(Held);

/// Most often one, which then takes no more room than itself.
#[derive(Debug, Clone, Default)]
enum Held {
    #[default]
    None,
    One(Arc<str>),
    Many(Box<Many>),
}

/// Two or more.
#[derive(Debug, Clone)]
struct Many(Vec<Arc<str>>);

impl Executables {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.all().len()
    }

    #[must_use]
    pub fn contains(&self, path: &str) -> bool {
        self.position(path).is_ok()
    }

    /// In order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.all().iter().map(|path| &**path)
    }

    /// In order, as they are shared.
    pub fn shared(&self) -> impl Iterator<Item = &Arc<str>> {
        self.all().iter()
    }

    pub fn insert(&mut self, path: Arc<str>) {
        let Err(position) = self.position(&path) else { return };
        self.0 = match std::mem::take(&mut self.0) {
            Held::None => Held::One(path),
            Held::One(other) => {
                let mut both = vec![other];
                both.insert(position, path);
                Held::Many(Box::new(Many(both)))
            }
            Held::Many(mut many) => {
                many.0.insert(position, path);
                Held::Many(many)
            }
        };
    }

    pub fn clear(&mut self) {
        self.0 = Held::None;
    }

    /// Shares their names with whoever else has them from `names`.
    pub fn share(&mut self, names: &mut Names) {
        match &mut self.0 {
            Held::None => {}
            Held::One(path) => *path = names.share(path),
            Held::Many(many) => {
                for path in &mut many.0 {
                    *path = names.share(path);
                }
                many.0.shrink_to_fit();
            }
        }
    }

    fn all(&self) -> &[Arc<str>] {
        match &self.0 {
            Held::None => &[],
            Held::One(path) => std::slice::from_ref(path),
            Held::Many(many) => &many.0,
        }
    }

    fn position(&self, path: &str) -> Result<usize, usize> {
        self.all().binary_search_by(|it| (**it).cmp(path))
    }
}

impl PartialEq for Executables {
    fn eq(&self, other: &Self) -> bool {
        self.all() == other.all()
    }
}

impl Eq for Executables {}

impl PartialOrd for Executables {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Executables {
    fn cmp(&self, other: &Self) -> Ordering {
        self.all().cmp(other.all())
    }
}

impl Hash for Executables {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.all().hash(state);
    }
}

impl<T: Into<Arc<str>>> Extend<T> for Executables {
    fn extend<I: IntoIterator<Item = T>>(&mut self, paths: I) {
        paths.into_iter().for_each(|path| self.insert(path.into()));
    }
}

impl<T: Into<Arc<str>>> FromIterator<T> for Executables {
    fn from_iter<I: IntoIterator<Item = T>>(paths: I) -> Self {
        let mut executables = Self::default();
        executables.extend(paths);
        executables
    }
}

impl Serialize for Executables {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Executables {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Paths;

        impl<'de> Visitor<'de> for Paths {
            type Value = Executables;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of executables")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Executables, A::Error> {
                let mut executables = Executables::default();
                while let Some(path) = seq.next_element::<String>()? {
                    executables.insert(path.into());
                }
                Ok(executables)
            }
        }

        deserializer.deserialize_seq(Paths)
    }
}

/// Names that many share.
#[derive(Debug)]
pub struct Names {
    held: HashSet<Arc<str>, FixedState>,
    lists: Lists,
    /// Past this many it is looked which of them nobody uses any more.
    room: usize,
}

impl Names {
    const ROOM: usize = 1_024;

    /// `seed` keys the table: it holds what strangers choose.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            held: HashSet::with_hasher(FixedState::with_seed(seed)),
            lists: Lists::default(),
            room: Self::ROOM,
        }
    }

    /// Has a list of instances held once, as far as that is easily found.
    pub fn share_list(&mut self, instances: &mut Instances) {
        instances.share(&mut self.lists);
    }

    /// The one copy of `name`.
    pub fn share(&mut self, name: &str) -> Arc<str> {
        if let Some(held) = self.held.get(name) {
            return Arc::clone(held);
        }
        if self.held.len() >= self.room {
            self.held.retain(|it| Arc::strong_count(it) > 1);
            self.room = Self::ROOM.max(self.held.len() * 2);
        }
        let name: Arc<str> = name.into();
        self.held.insert(Arc::clone(&name));
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_in_order_and_reads_as_it_is_written() {
        let set: Executables = ["/b", "/a", "/b"].into_iter().collect();
        let json = serde_json::to_string(&set).unwrap();
        assert_eq!(json, r#"["/a","/b"]"#);
        assert_eq!(serde_json::from_str::<Executables>(&json).unwrap(), set);
        assert!(set.contains("/a") && !set.contains("/c"));
    }

    #[test]
    fn names_that_nobody_uses_are_not_kept() {
        let mut names = Names::new(7);
        let kept = names.share("/usr/bin/kept");
        for number in 0..10_000 {
            names.share(&number.to_string());
        }
        assert!(names.held.len() <= Names::ROOM, "{}", names.held.len());
        assert!(Arc::ptr_eq(&names.share("/usr/bin/kept"), &kept));
    }
}
