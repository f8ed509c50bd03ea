//! From text to a policy.
//!
//! Layout counts, as in Python: a block is the lines that begin at one column, further right than what it belongs to.

use super::super::shared::Mode;
use super::Policy;
use super::language::{Act, Condition, ControlChange, Half, HostVector, Op, Routine, Step, Surrounding, Term};
use super::token::{self, Kind, Line, Token};
use thiserror::Error;

/// What is wrong with a policy's text, and where.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{line}:{column}: {message}")]
pub struct PolicyError {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// Steps of one routine: jumps are 16-bit.
const MOST_STEPS: usize = 10_000;
/// Blocks and parentheses inside each other.
const DEEPEST: usize = 50;

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// The first mistake: line, column, what is allowed there, and the nearest name.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let lines = token::lines(text).map_err(|(line, column, strange)| PolicyError {
            line,
            column,
            message: format!("{strange:?} begins nothing in a policy"),
        })?;
        let mut parser = Parser { lines: &lines, at: 0, token: 0, steps: Vec::new(), routine: None, depth: 0 };
        parser.policy()
    }
}

struct Parser<'a> {
    lines: &'a [Line],
    /// The line that is read.
    at: usize,
    /// The next token of it.
    token: usize,
    steps: Vec<Step>,
    /// The routine that the steps belong to.
    routine: Option<Routine>,
    depth: usize,
}

type Parsed<T> = Result<T, PolicyError>;

impl<'a> Parser<'a> {
    fn line(&self) -> Option<&'a Line> {
        self.lines.get(self.at)
    }

    fn peek(&self) -> Option<&'a Token> {
        self.line()?.tokens.get(self.token)
    }

    /// The column of the next token, or of the end of the line.
    fn column(&self) -> usize {
        self.peek().map_or_else(|| self.line().map_or(1, |line| line.end), |token| token.column)
    }

    fn error<T>(&self, message: impl Into<String>) -> Parsed<T> {
        let line = self.line().or(self.lines.last()).map_or(1, |line| line.number);
        Err(PolicyError { line, column: self.column(), message: message.into() })
    }

    fn next(&mut self) -> Option<&'a Kind> {
        let token = self.peek()?;
        self.token += 1;
        Some(&token.kind)
    }

    fn word(&mut self, what: &str) -> Parsed<&'a str> {
        match self.peek().map(|token| &token.kind) {
            Some(Kind::Word(word)) => {
                self.token += 1;
                Ok(word)
            }
            found => self.error(format!("{what} is missing here{}", instead_of(found))),
        }
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Some(Token { kind: Kind::Word(found), .. }) if found == word)
    }

    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Some(Token { kind: Kind::Sign(found), .. }) if *found == sign)
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        let taken = self.is_sign(sign);
        self.token += usize::from(taken);
        taken
    }

    fn sign(&mut self, sign: &str) -> Parsed<()> {
        if self.take_sign(sign) {
            return Ok(());
        }
        self.error(format!("{sign:?} is missing here{}", instead_of(self.peek().map(|token| &token.kind))))
    }

    /// Goes on to the next line; this one must be used up.
    fn end_of_line(&mut self) -> Parsed<()> {
        if self.peek().is_some() {
            return self.error("the line should end here, or go on with \";\"");
        }
        self.at += 1;
        self.token = 0;
        Ok(())
    }

    fn policy(&mut self) -> Parsed<Policy> {
        if !self.is_word("policy") {
            return self.error("a policy begins with \"policy NAME\"");
        }
        self.next();
        let name = self.word("the policy's name")?.to_owned();
        self.end_of_line()?;
        let mut policy =
            Policy { name, source: String::new(), routines: Default::default(), written: [false; Routine::ALL.len()] };
        if self.is_word("source") {
            self.next();
            match self.next() {
                Some(Kind::Quoted(text)) => policy.source.clone_from(text),
                _ => return self.error("source takes a text in quotes"),
            }
            self.end_of_line()?;
        }
        while self.line().is_some() {
            let column = self.column();
            let routine = self.routine_name()?;
            let places = (policy.written.get_mut(routine as usize), policy.routines.get_mut(routine as usize));
            let (Some(seen), Some(steps)) = places else { return self.error("no such routine") };
            if std::mem::replace(seen, true) {
                self.token = 0;
                return self.error(format!("{} is there already: a routine has one place", routine.name()));
            }
            self.steps = Vec::new();
            self.routine = Some(routine);
            self.block(column)?;
            *steps = std::mem::take(&mut self.steps);
        }
        Ok(policy)
    }

    fn routine_name(&mut self) -> Parsed<Routine> {
        let word = self.word("the name of a routine")?;
        let Some(routine) = Routine::ALL.into_iter().find(|routine| routine.name() == word) else {
            self.token -= 1;
            return self.unknown("routine", word, Routine::ALL.iter().map(|routine| routine.name()));
        };
        self.sign(":")?;
        Ok(routine)
    }

    /// What stands behind a colon: statements on the same line, or lines further right than `owner`.
    fn block(&mut self, owner: usize) -> Parsed<()> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return self.error(format!("more than {DEEPEST} blocks inside each other"));
        }
        if self.peek().is_none() {
            self.at += 1;
            self.token = 0;
        }
        let column = self.column();
        if self.line().is_none() || column <= owner {
            // Nothing is further right: the block is missing, or the routine does nothing.
            self.depth -= 1;
            return if owner_is_routine(self.depth) { Ok(()) } else { self.error("a step is missing before this") };
        }
        while self.line().is_some() && self.column() == column {
            self.statements(column)?;
        }
        if self.line().is_some() && self.column() > column {
            return self.error(format!("this line is further right than the block at column {column} that it is in"));
        }
        if self.line().is_some() && self.column() > owner {
            return self.error(format!("this line is in no block: the one above begins at column {column}"));
        }
        self.depth -= 1;
        Ok(())
    }

    /// One line of a block, with what belongs to it.
    fn statements(&mut self, column: usize) -> Parsed<()> {
        if self.is_word("if") {
            return self.if_statement(column);
        }
        if self.is_word("for_listed") {
            return self.for_listed(column);
        }
        if self.is_word("else") {
            return self.error("else without an if above it at the same column");
        }
        self.acts()
    }

    /// `act; act; ...` to the end of the line.
    fn acts(&mut self) -> Parsed<()> {
        loop {
            self.act()?;
            if !self.take_sign(";") {
                return self.end_of_line();
            }
        }
    }

    /// What follows `if ...:` or `for_listed` on the same line, or the block below.
    fn body(&mut self, column: usize) -> Parsed<()> {
        if self.peek().is_none() {
            return self.block(column);
        }
        self.depth += 1;
        if self.depth > DEEPEST {
            return self.error(format!("more than {DEEPEST} conditions on one line"));
        }
        if self.is_word("if") {
            self.if_statement(column)?;
        } else {
            self.acts()?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn if_statement(&mut self, column: usize) -> Parsed<()> {
        let (line, first) = (self.at, self.token);
        self.next();
        let condition = self.condition()?;
        self.check_reads(&condition)?;
        let text = self.text(line, first);
        self.sign(":")?;
        let look = self.push(Op::If { condition, otherwise: 0 }, line, text)?;
        self.body(column)?;
        if self.column() == column && self.is_word("else") {
            let line = self.at;
            self.next();
            self.sign(":")?;
            let leave = self.push(Op::Goto(0), line, "else".to_owned())?;
            self.jump_here(look);
            self.body(column)?;
            self.jump_here(leave);
        } else {
            self.jump_here(look);
        }
        Ok(())
    }

    fn for_listed(&mut self, column: usize) -> Parsed<()> {
        let line = self.at;
        self.next();
        self.take_sign(":");
        let head = self.push(Op::NextListed { otherwise: 0 }, line, "for_listed".to_owned())?;
        self.body(column)?;
        self.push(Op::Goto(head as u16), line, "for_listed".to_owned())?;
        self.jump_here(head);
        Ok(())
    }

    fn push(&mut self, op: Op, line: usize, text: String) -> Parsed<usize> {
        if self.steps.len() >= MOST_STEPS {
            return self.error(format!("a routine has at most {MOST_STEPS} steps"));
        }
        let number = self.lines.get(line).map_or(0, |line| line.number);
        self.steps.push(Step { op, line: number, text });
        Ok(self.steps.len() - 1)
    }

    /// The jump of step `from` goes to what comes next.
    fn jump_here(&mut self, from: usize) {
        let here = self.steps.len() as u16;
        match self.steps.get_mut(from).map(|step| &mut step.op) {
            Some(Op::If { otherwise, .. } | Op::NextListed { otherwise } | Op::Goto(otherwise)) => *otherwise = here,
            Some(Op::Act(_)) | None => {}
        }
    }

    /// The words of a line from token `first` to the one that is read next.
    fn text(&self, line: usize, first: usize) -> String {
        let Some(line) = self.lines.get(line) else { return String::new() };
        let words = line.tokens.get(first..self.token).unwrap_or_default().iter().map(|token| match &token.kind {
            Kind::Word(word) => word.clone(),
            Kind::Quoted(text) => format!("{text:?}"),
            Kind::Sign(sign) => (*sign).to_owned(),
        });
        let spaced: String = words.collect::<Vec<_>>().join(" ");
        spaced.replace(" ,", ",").replace(" = ", "=").replace("( ", "(").replace(" )", ")")
    }

    fn act(&mut self) -> Parsed<()> {
        let (line, first) = (self.at, self.token);
        let word = self.word("a step")?;
        let act = match word {
            "control" => Act::Control(self.control_change()?),
            "self_ipi" => Act::SelfIpi(self.host_vector()?),
            "ipi" => Act::Ipi(self.host_vector()?),
            "mode" => Act::Mode(self.mode()?),
            "store_entry" => Act::Surrounding(Surrounding::StoreEntry(self.half()?)),
            _ => self.plain_act(word)?,
        };
        if let Act::Surrounding(act) = act
            && Some(act.routine()) != self.routine
        {
            return self.error(format!("{word} belongs to the routine {}", act.routine().name()));
        }
        let text = self.text(line, first);
        self.push(Op::Act(act), line, text).map(|_| ())
    }

    fn plain_act(&mut self, word: &str) -> Parsed<Act> {
        if let Some((_, act)) = Act::PLAIN.into_iter().find(|(name, _)| *name == word) {
            return Ok(act);
        }
        self.token -= 1;
        let plain = Act::PLAIN.into_iter().map(|(name, _)| name);
        self.unknown("step", word, plain.chain(Act::WITH_ARGUMENT).chain(["if", "else", "for_listed"]))
    }

    fn control_change(&mut self) -> Parsed<ControlChange> {
        let mut change = ControlChange::default();
        loop {
            let field = self.word("a field of the control word")?;
            if !["nv", "ndst", "sn", "on"].contains(&field) {
                self.token -= 1;
                return self.unknown("field of the control word", field, ["nv", "ndst", "sn", "on"]);
            }
            self.sign("=")?;
            match field {
                "nv" => change.nv = Some(self.host_vector()?),
                "ndst" => {
                    self.one_of("NDST", ["here"])?;
                    change.ndst_here = true;
                }
                "sn" => change.sn = Some(self.one_of("SN", ["0", "1"])? == "1"),
                _ => change.on = Some(self.one_of("ON", ["0", "1"])? == "1"),
            }
            if !self.take_sign(",") {
                return Ok(change);
            }
        }
    }

    fn one_of<const N: usize>(&mut self, what: &str, allowed: [&'static str; N]) -> Parsed<&'static str> {
        let word = self.word(what)?;
        if let Some(known) = allowed.into_iter().find(|known| *known == word) {
            return Ok(known);
        }
        self.token -= 1;
        self.unknown(&format!("value of {what}"), word, allowed)
    }

    fn host_vector(&mut self) -> Parsed<HostVector> {
        let word = self.one_of("a host vector", HostVector::ALL.map(HostVector::name))?;
        Ok(if word == HostVector::Wakeup.name() { HostVector::Wakeup } else { HostVector::Notify })
    }

    fn mode(&mut self) -> Parsed<Mode> {
        Ok(if self.one_of("a mode", ["in_guest", "outside"])? == "in_guest" { Mode::InGuest } else { Mode::Outside })
    }

    fn half(&mut self) -> Parsed<Half> {
        if self.peek().is_none() || self.is_sign(";") {
            return Ok(Half::Both);
        }
        Ok(if self.one_of("a half", ["low", "high"])? == "low" { Half::Low } else { Half::High })
    }

    /// `a or b`, the loosest.
    fn condition(&mut self) -> Parsed<Condition> {
        let mut left = self.conjunction()?;
        while self.is_word("or") {
            self.next();
            left = Condition::Or(Box::new(left), Box::new(self.conjunction()?));
        }
        Ok(left)
    }

    fn conjunction(&mut self) -> Parsed<Condition> {
        let mut left = self.negation()?;
        while self.is_word("and") {
            self.next();
            left = Condition::And(Box::new(left), Box::new(self.negation()?));
        }
        Ok(left)
    }

    fn negation(&mut self) -> Parsed<Condition> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return self.error(format!("more than {DEEPEST} conditions inside each other"));
        }
        let condition = if self.is_word("not") {
            self.next();
            Condition::Not(Box::new(self.negation()?))
        } else if self.take_sign("(") {
            let inner = self.condition()?;
            self.sign(")")?;
            inner
        } else {
            self.term()?
        };
        self.depth -= 1;
        Ok(condition)
    }

    fn term(&mut self) -> Parsed<Condition> {
        let word = self.word("a condition")?;
        if let Some((_, term)) = Term::PLAIN.into_iter().find(|(name, _)| *name == word) {
            return Ok(Condition::Term(term));
        }
        match word {
            "nv" => {
                let equal = self.equality()?;
                let vector = self.host_vector()?;
                Ok(equal(Term::Nv(vector)))
            }
            "ndst" => {
                let equal = self.equality()?;
                self.one_of("NDST", ["here"])?;
                Ok(equal(Term::NdstHere))
            }
            "mode" => {
                let equal = self.equality()?;
                let mode = self.mode()?;
                Ok(equal(Term::Mode(mode)))
            }
            "old" => Ok(Condition::Term(match self.one_of("what an act found", ["on", "sn", "pir", "event"])? {
                "on" => Term::OldOn,
                "sn" => Term::OldSn,
                "pir" => Term::OldPir,
                _ => Term::OldEvent,
            })),
            "new" => {
                let on = self.one_of("what an act wrote", ["on", "sn"])? == "on";
                Ok(Condition::Term(if on { Term::NewOn } else { Term::NewSn }))
            }
            _ => {
                self.token -= 1;
                let plain = Term::PLAIN.into_iter().map(|(name, _)| name);
                self.unknown("condition", word, plain.chain(Term::LEADING).chain(["not"]))
            }
        }
    }

    fn equality(&mut self) -> Parsed<fn(Term) -> Condition> {
        if self.take_sign("==") {
            Ok(Condition::Term)
        } else if self.take_sign("!=") {
            Ok(|term| Condition::Not(Box::new(Condition::Term(term))))
        } else {
            self.error("== or != is missing here")
        }
    }

    /// A condition is one step: it reads one word of shared memory, once.
    fn check_reads(&self, condition: &Condition) -> Parsed<()> {
        let mut reads = condition.reads();
        reads.dedup();
        match reads[..] {
            [one, other, ..] => self.error(format!(
                "this condition reads {} and {}: a step reads one word of memory, so write two ifs",
                one.name(),
                other.name()
            )),
            _ => Ok(()),
        }
    }

    fn unknown<T>(&self, what: &str, word: &str, known: impl IntoIterator<Item = &'static str>) -> Parsed<T> {
        let known: Vec<_> = known.into_iter().collect();
        let near = |name: &&&str| strsim::normalized_damerau_levenshtein(word, name);
        let nearest = known.iter().max_by(|one, other| near(one).total_cmp(&near(other)));
        let hint = match nearest {
            Some(name) if near(&name) >= 0.5 => format!("; did you mean {name}?"),
            _ => format!("; it is one of {}", known.join(", ")),
        };
        self.error(format!("no {what} {word:?}{hint}"))
    }
}

/// At the outermost level an empty block is a routine that does nothing.
const fn owner_is_routine(depth: usize) -> bool {
    depth == 0
}

fn instead_of(found: Option<&Kind>) -> String {
    match found {
        Some(Kind::Word(word)) => format!(", not {word:?}"),
        Some(Kind::Quoted(text)) => format!(", not the text {text:?}"),
        Some(Kind::Sign(sign)) => format!(", not {sign:?}"),
        None => String::new(),
    }
}
