//! What an edge's owner ran as: a container's name and its image, as runtimes tell them. They are no part
//! of who it is: an image that changes is no news. Ten thousand edges of one service share one list.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A container that an edge was seen of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Instance {
    /// What it is called within its pod, or by its runtime, as safe text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Arc<str>>,
    /// Its image's digest, else the image's name, as safe text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Arc<str>>,
}

/// A few of them, the newest last. Most often there are none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Instances(Option<Arc<Vec<Instance>>>);

impl Instances {
    /// Remembered of one edge.
    pub const BOUND: usize = 8;

    #[must_use]
    pub fn all(&self) -> &[Instance] {
        self.0.as_ref().map_or(&[], |all| all.as_slice())
    }

    /// It is this one now; one that was seen before stays where it is. Where there is no room, another
    /// image takes the place of one of several containers of the same, else of the oldest; of an image that
    /// is listed no further container is: where many run, the list would never rest.
    pub fn add(&mut self, instance: &Instance) {
        let all = self.all();
        let of = |image: &Option<Arc<str>>| all.iter().filter(|it| it.image == *image).count();
        let mut leaves = None;
        if all.len() >= Self::BOUND {
            if of(&instance.image) > 0 {
                return;
            }
            leaves = Some(all.iter().position(|it| of(&it.image) > 1).unwrap_or(0));
        } else if all.contains(instance) {
            return;
        }
        let stays = all.iter().enumerate().filter(|(index, _)| Some(*index) != leaves);
        let all = stays.map(|(_, it)| it).chain([instance]).cloned().collect();
        self.0 = Some(Arc::new(all));
    }

    /// Takes over what another list has the same, so that it is held once.
    pub(crate) fn share(&mut self, lists: &mut Lists) {
        if let Some(own) = &mut self.0 {
            *own = lists.share(own);
        }
    }
}

impl From<Vec<Instance>> for Instances {
    fn from(all: Vec<Instance>) -> Self {
        Self((!all.is_empty()).then(|| Arc::new(all)))
    }
}

/// The lists that were shared last: those of one service come one after the other.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    last: Vec<Arc<Vec<Instance>>>,
    next: usize,
}

impl Lists {
    const BOUND: usize = 64;

    fn share(&mut self, list: &Arc<Vec<Instance>>) -> Arc<Vec<Instance>> {
        if let Some(same) = self.last.iter().find(|it| *it == list) {
            return Arc::clone(same);
        }
        if self.last.len() < Self::BOUND {
            self.last.push(Arc::clone(list));
        } else {
            self.last[self.next] = Arc::clone(list);
            self.next = (self.next + 1) % Self::BOUND;
        }
        Arc::clone(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(image: usize) -> Instance {
        Instance { container: Some("web".into()), image: Some(image.to_string().into()) }
    }

    #[test]
    fn many_containers_of_few_images_are_a_list_that_rests() {
        let of = |image: &str, replica: usize| Instance {
            container: Some(format!("web_{replica}").into()),
            image: Some(image.into()),
        };
        let mut instances = Instances::default();
        let mut seen = |image: &str| {
            (0..20).for_each(|it| instances.add(&of(image, it)));
            let before = instances.clone();
            (0..20).for_each(|it| instances.add(&of(image, it)));
            assert_eq!(instances, before, "{image}");
            let images = instances.all().iter().filter_map(|it| it.image.as_deref());
            images.collect::<Vec<_>>().concat()
        };
        assert_eq!(seen("a"), "aaaaaaaa");
        assert_eq!(seen("b"), "aaaaaaab");
        for (image, images) in [("c", "aaaaaabc"), ("d", "aaaaabcd"), ("a", "aaaaabcd")] {
            assert_eq!(seen(image), images);
        }
    }

    #[test]
    fn the_last_few_are_kept_once() {
        let (mut a, mut b, mut lists) =
            (Instances::default(), Instances::default(), Lists::default());
        for image in [0, 1, 2, 3, 2, 4, 5, 6, 7, 8, 9] {
            for instances in [&mut a, &mut b] {
                instances.add(&instance(image));
                instances.share(&mut lists);
            }
        }
        let images: Vec<&str> = a.all().iter().filter_map(|it| it.image.as_deref()).collect();
        assert_eq!(images, ["2", "3", "4", "5", "6", "7", "8", "9"]);
        assert!(Arc::ptr_eq(a.0.as_ref().unwrap(), b.0.as_ref().unwrap()));
        for image in 0..10_000 {
            Instances::from(vec![instance(image)]).share(&mut lists);
        }
        assert!(lists.last.len() <= Lists::BOUND);
        assert_eq!(size_of::<Instances>(), 8);
    }
}
