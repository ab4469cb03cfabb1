//! Values that lie on the stack for the kernel to read: written in whole words, and not changed
//! after. Kernels before 6.9 follow what a narrow store puts at the head of a word, and then refuse
//! every further narrow store into that word to programs loaded without CAP_PERFMON.

use core::mem::MaybeUninit;
use core::ops::Deref;

use zerocopy::IntoBytes;

/// A value in whole words.
pub(crate) struct Words<T>(MaybeUninit<T>);

impl<T: IntoBytes + Copy> Words<T> {
    const WORDS: usize = {
        assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() == 8, "no whole words");
        size_of::<T>() / 8
    };

    #[inline(always)]
    pub(crate) fn of(value: T) -> Self {
        let mut place = MaybeUninit::<T>::uninit();
        let from = (&raw const value).cast::<u64>();
        let into = place.as_mut_ptr().cast::<u64>();
        let mut word = 0;
        while word < Self::WORDS {
            // SAFETY: within both, which are so many aligned words; all bytes of `T` are initialised.
            // Volatile, so that it stays one store.
            unsafe { into.add(word).write_volatile(from.add(word).read()) };
            word += 1;
        }
        Self(place)
    }
}

impl<T> Deref for Words<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: written whole when it was made.
        unsafe { self.0.assume_init_ref() }
    }
}
