//! A 64-bit word of memory that several agents may change.
//!
//! Every atomic act of processor and hypervisor is one call of this trait, so that the same code runs on real atomics
//! (threads), on `Cell` (one simulation, one thread) and on loom's atomics (exhaustive tests).
//!
//! Orderings, once for all: a read-modify-write operation is a full barrier, as a locked instruction is on x86; `load`
//! acquires and `store` releases, as plain moves do there. A plain store followed by a load of another word may be seen
//! the other way round (store buffering): where a protocol needs more, it says so with [`Word::fence`].

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// A 64-bit word with the operations that hardware and hypervisor perform on it.
pub trait Word: Sized {
    /// Words that [`PhysicalMemory`](super::PhysicalMemory) may skip so that its address 0 stands on a page boundary of
    /// the machine, and no posted-interrupt descriptor shares a cache line with another.
    const SLACK: usize;
    /// `count` words of 0. Memory is touched when it is first used, where the platform can do that.
    fn zeroed(count: usize) -> Box<[Self]>;
    /// Reads the word.
    fn load(&self) -> u64;
    /// Writes the word.
    fn store(&self, value: u64);
    /// Reads a word that nobody but the caller writes: ordered with nothing else.
    fn load_own(&self) -> u64;
    /// Writes a word that nobody but the caller writes: ordered with nothing else. Who takes the word over sees it
    /// through whatever hands it over.
    fn store_own(&self, value: u64);
    /// Sets bits, returns the word before.
    fn fetch_or(&self, bits: u64) -> u64;
    /// Sets bit `bit % 64`, returns whether it was set before.
    #[inline]
    fn set_bit(&self, bit: u8) -> bool {
        let mask = 1 << (bit % 64);
        self.fetch_or(mask) & mask != 0
    }
    /// Clears the bits that are 0 in `bits`, returns the word before.
    fn fetch_and(&self, bits: u64) -> u64;
    /// Adds, wrapping round; returns the word before.
    fn fetch_add(&self, value: u64) -> u64;
    /// Replaces the word, returns the word before.
    fn swap(&self, value: u64) -> u64;
    /// Replaces the word if it is `current`.
    ///
    /// # Errors
    /// The word that was found instead.
    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64>;
    /// Full barrier (MFENCE, `smp_mb`): stores before it are seen before loads after it are done.
    fn fence();
}

/// Makes the operation that has just been done a full barrier, as a locked instruction is on x86; elsewhere it takes a
/// fence before a later load of another word.
#[inline]
fn locked<T>(result: T) -> T {
    if !cfg!(any(target_arch = "x86", target_arch = "x86_64")) {
        fence(Ordering::SeqCst);
    }
    result
}

impl Word for AtomicU64 {
    const SLACK: usize = super::PAGE_WORDS;

    fn zeroed(count: usize) -> Box<[Self]> {
        bytemuck::allocation::zeroed_slice_box(count)
    }

    #[inline]
    fn load(&self) -> u64 {
        AtomicU64::load(self, Ordering::Acquire)
    }

    #[inline]
    fn store(&self, value: u64) {
        AtomicU64::store(self, value, Ordering::Release);
    }

    #[inline]
    fn load_own(&self) -> u64 {
        AtomicU64::load(self, Ordering::Relaxed)
    }

    #[inline]
    fn store_own(&self, value: u64) {
        AtomicU64::store(self, value, Ordering::Relaxed);
    }

    #[inline]
    fn fetch_or(&self, bits: u64) -> u64 {
        locked(AtomicU64::fetch_or(self, bits, Ordering::SeqCst))
    }

    /// One instruction. The compiler makes a loop of `fetch_or` where its result is used: a load, which brings the line in
    /// to be shared, and then a LOCK CMPXCHG, which asks for it once more.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn set_bit(&self, bit: u8) -> bool {
        let before: u8;
        #[expect(unsafe_code, reason = "LOCK BTS, which no function of the standard library is")]
        // SAFETY: the pointer is of a live atomic word. BTS with an operand in memory reaches 8 bytes at
        // `bit / 64` words from it (SDM Vol. 2A, BTS), which is this word, since `bit % 64` is below 64. With LOCK it is
        // one atomic read-modify-write and a full barrier; it changes that word and flags, and uses no stack.
        unsafe {
            std::arch::asm!(
                "lock bts qword ptr [{word}], {bit}",
                "setc {before}",
                word = in(reg) self.as_ptr(),
                bit = in(reg) u64::from(bit % 64),
                before = out(reg_byte) before,
                options(nostack),
            );
        }
        before & 1 != 0
    }

    #[inline]
    fn fetch_and(&self, bits: u64) -> u64 {
        locked(AtomicU64::fetch_and(self, bits, Ordering::SeqCst))
    }

    #[inline]
    fn fetch_add(&self, value: u64) -> u64 {
        locked(AtomicU64::fetch_add(self, value, Ordering::SeqCst))
    }

    #[inline]
    fn swap(&self, value: u64) -> u64 {
        locked(AtomicU64::swap(self, value, Ordering::SeqCst))
    }

    #[inline]
    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        locked(AtomicU64::compare_exchange(self, current, new, Ordering::SeqCst, Ordering::SeqCst))
    }

    #[inline]
    fn fence() {
        fence(Ordering::SeqCst);
    }
}

impl Word for Cell<u64> {
    const SLACK: usize = super::PAGE_WORDS;

    fn zeroed(count: usize) -> Box<[Self]> {
        bytemuck::allocation::zeroed_slice_box(count)
    }

    #[inline]
    fn load(&self) -> u64 {
        self.get()
    }

    #[inline]
    fn store(&self, value: u64) {
        self.set(value);
    }

    #[inline]
    fn load_own(&self) -> u64 {
        self.get()
    }

    #[inline]
    fn store_own(&self, value: u64) {
        self.set(value);
    }

    #[inline]
    fn fetch_or(&self, bits: u64) -> u64 {
        self.replace(self.get() | bits)
    }

    #[inline]
    fn fetch_and(&self, bits: u64) -> u64 {
        self.replace(self.get() & bits)
    }

    #[inline]
    fn fetch_add(&self, value: u64) -> u64 {
        self.replace(self.get().wrapping_add(value))
    }

    #[inline]
    fn swap(&self, value: u64) -> u64 {
        self.replace(value)
    }

    #[inline]
    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        let found = self.get();
        if found == current {
            self.set(new);
            Ok(found)
        } else {
            Err(found)
        }
    }

    #[inline]
    fn fence() {}
}

#[cfg(loom)]
impl Word for loom::sync::atomic::AtomicU64 {
    // loom has cache lines of its own.
    const SLACK: usize = 0;

    fn zeroed(count: usize) -> Box<[Self]> {
        (0..count).map(|_| Self::new(0)).collect()
    }

    fn load(&self) -> u64 {
        self.load(Ordering::Acquire)
    }

    fn store(&self, value: u64) {
        self.store(value, Ordering::Release);
    }

    fn load_own(&self) -> u64 {
        self.load(Ordering::Relaxed)
    }

    fn store_own(&self, value: u64) {
        self.store(value, Ordering::Relaxed);
    }

    fn fetch_or(&self, bits: u64) -> u64 {
        self.fetch_or(bits, Ordering::SeqCst)
    }

    fn fetch_and(&self, bits: u64) -> u64 {
        self.fetch_and(bits, Ordering::SeqCst)
    }

    fn fetch_add(&self, value: u64) -> u64 {
        self.fetch_add(value, Ordering::SeqCst)
    }

    fn swap(&self, value: u64) -> u64 {
        self.swap(value, Ordering::SeqCst)
    }

    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        let found = self.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)?;
        // loom takes a sequentially consistent operation for an acquiring and releasing one.
        Self::fence();
        Ok(found)
    }

    fn fence() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behaves<W: Word>() {
        let words = W::zeroed(2);
        let word = &words[0];
        assert_eq!(word.load(), 0);
        word.store(0b0011);
        word.store_own(word.load_own());
        assert_eq!(word.fetch_or(0b0110), 0b0011);
        assert_eq!(word.fetch_and(0b0101), 0b0111);
        assert_eq!(word.compare_exchange(1, 2), Err(0b0101));
        assert_eq!(word.compare_exchange(0b0101, 2), Ok(0b0101));
        assert_eq!(word.fetch_add(3), 2);
        assert_eq!(word.swap(9), 5);
        assert!((0..64).all(|bit| word.set_bit(bit) == (9u64 >> bit & 1 == 1) && word.set_bit(bit)));
        assert_eq!(word.swap(9), u64::MAX);
        W::fence();
        assert!(!word.set_bit(255), "bit 63");
        assert_eq!((word.load(), words[1].load()), (9 | 1 << 63, 0));
    }

    /// The two kinds of word cannot be told apart on one thread.
    #[test]
    fn atomic_and_cell_agree() {
        behaves::<AtomicU64>();
        behaves::<Cell<u64>>();
    }
}
