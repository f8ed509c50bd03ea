//! What a vCPU waits for that does not go on.

use std::fmt;

/// Names that programs have given to signals and locks, by number from this one on; those below are of ready-made guests.
const FIRST_NAMED: u16 = 2;

/// What a vCPU's next act waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// A signal, to be counted.
    Signal(u16),
    /// A lock, to be free.
    Lock(u16),
    /// Answers to its calls.
    Answers,
    /// A call, which it polls for.
    Call,
    /// A message.
    Message,
    /// An interrupt, in HLT.
    Interrupt,
}

impl Awaited {
    /// The same for people. `names` are those of signals and locks, by number from 2 on.
    #[must_use]
    pub const fn in_words(self, names: &[String]) -> impl fmt::Display {
        Words { awaited: self, names }
    }
}

struct Words<'a> {
    awaited: Awaited,
    names: &'a [String],
}

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, number) = match self.awaited {
            Awaited::Signal(number) => ("signal", number),
            Awaited::Lock(number) => ("lock", number),
            Awaited::Answers => return f.write_str("answers to its calls"),
            Awaited::Call => return f.write_str("a call"),
            Awaited::Message => return f.write_str("a message"),
            Awaited::Interrupt => return f.write_str("an interrupt (HLT)"),
        };
        match number.checked_sub(FIRST_NAMED).and_then(|at| self.names.get(usize::from(at))) {
            Some(name) => write!(f, "{what} \"{name}\""),
            None => write!(f, "{what} {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_and_locks_have_the_names_that_programs_give_them() {
        let names = ["go".to_owned(), "queue".to_owned()];
        let words = |awaited: Awaited| awaited.in_words(&names).to_string();
        assert_eq!(
            (words(Awaited::Signal(2)), words(Awaited::Lock(3))),
            ("signal \"go\"".into(), "lock \"queue\"".into())
        );
        assert_eq!((words(Awaited::Signal(1)), words(Awaited::Lock(4))), ("signal 1".into(), "lock 4".into()));
        assert_eq!(words(Awaited::Interrupt), "an interrupt (HLT)");
    }
}
