//! pCPUs whose guests spin.

use super::simulation::NOBODY;
use std::cell::{Cell, Ref, RefCell};

/// pCPUs whose guests spin, in no order. Mostly it is one at a time, which then needs no list.
#[derive(Debug)]
pub(super) struct Spinners {
    one: Cell<u32>,
    /// The others, if there are `several`.
    others: RefCell<Vec<u32>>,
    several: Cell<bool>,
}

impl Spinners {
    pub(super) const fn new() -> Self {
        Self { one: Cell::new(NOBODY), others: RefCell::new(Vec::new()), several: Cell::new(false) }
    }

    #[inline]
    pub(super) fn add(&self, pcpu: u32) {
        if self.one.get() == NOBODY {
            self.one.set(pcpu);
        } else {
            self.add_other(pcpu);
        }
    }

    #[inline(never)]
    fn add_other(&self, pcpu: u32) {
        self.others.borrow_mut().push(pcpu);
        self.several.set(true);
    }

    #[inline]
    pub(super) fn remove(&self, pcpu: u32) {
        if self.one.get() == pcpu {
            self.one.set(NOBODY);
        } else {
            self.remove_other(pcpu);
        }
    }

    #[inline(never)]
    fn remove_other(&self, pcpu: u32) {
        let mut others = self.others.borrow_mut();
        others.retain(|&other| other != pcpu);
        self.several.set(!others.is_empty());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.one.get() == NOBODY && !self.several.get()
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<u32> {
        self.one().into_iter().chain(self.others.borrow().iter().copied()).collect()
    }

    /// One of them, if there are any.
    #[inline]
    pub(super) const fn one(&self) -> Option<u32> {
        let one = self.one.get();
        if one == NOBODY { None } else { Some(one) }
    }

    /// The others, if there are some.
    #[inline]
    pub(super) fn others(&self) -> Option<Ref<'_, Vec<u32>>> {
        if self.several.get() { Some(self.others.borrow()) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_visited_until_it_is_removed() {
        let spinners = Spinners::new();
        let seen = |spinners: &Spinners| {
            let mut seen = spinners.all();
            seen.sort_unstable();
            seen
        };
        for pcpu in [3, 0, 7] {
            spinners.add(pcpu);
        }
        assert_eq!(seen(&spinners), [0, 3, 7]);
        spinners.remove(3);
        assert_eq!(seen(&spinners), [0, 7]);
        spinners.add(5);
        spinners.remove(0);
        spinners.remove(9);
        assert_eq!(seen(&spinners), [5, 7]);
        spinners.remove(7);
        spinners.remove(5);
        assert!(seen(&spinners).is_empty() && spinners.is_empty());
    }
}
