//! A policy's text as lines of words and signs.

use winnow::ascii::space0;
use winnow::combinator::{alt, delimited, preceded, repeat};
use winnow::error::ContextError;
use winnow::prelude::*;
use winnow::stream::{LocatingSlice, Location};
use winnow::token::{one_of, take_while};

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Word(String),
    Quoted(String),
    Sign(&'static str),
}

/// A token and the column it begins at, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) column: usize,
}

/// A line that is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// From 1.
    pub(super) number: u32,
    pub(super) tokens: Vec<Token>,
    /// Column after its last character.
    pub(super) end: usize,
}

type Input<'a> = LocatingSlice<&'a str>;

fn token(input: &mut Input<'_>) -> winnow::Result<Token, ContextError> {
    let column = input.current_token_start() + 1;
    let word = (one_of(|c: char| c.is_ascii_alphanumeric() || c == '_'), take_while(0.., is_word))
        .take()
        .map(|word: &str| Kind::Word(word.to_owned()));
    let quoted = delimited('"', take_while(0.., |c| c != '"'), '"').map(|text: &str| Kind::Quoted(text.to_owned()));
    let sign = alt(("==", "!=", "=", ":", ";", ",", "(", ")")).map(|sign: &str| {
        Kind::Sign(["==", "!=", "=", ":", ";", ",", "("].into_iter().find(|&known| known == sign).unwrap_or(")"))
    });
    alt((word, quoted, sign)).map(|kind| Token { kind, column }).parse_next(input)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '.'
}

/// The tokens of one line, and how many bytes of it they are.
fn tokens(input: &mut Input<'_>) -> winnow::Result<Vec<Token>, ContextError> {
    let all = repeat(0.., preceded(space0, token)).parse_next(input)?;
    space0.parse_next(input)?;
    Ok(all)
}

/// The lines of `text` without comments; a character that begins no token is an error: its line, column and itself.
pub(super) fn lines(text: &str) -> Result<Vec<Line>, (u32, usize, char)> {
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let content = without_comment(line).trim_end();
        let mut input = LocatingSlice::new(content);
        let tokens = tokens(&mut input).unwrap_or_default();
        let read = input.current_token_start();
        if let Some(strange) = content.get(read..).and_then(|rest| rest.chars().next()) {
            return Err((number, read + 1, strange));
        }
        if !tokens.is_empty() {
            lines.push(Line { number, tokens, end: content.len() + 1 });
        }
    }
    Ok(lines)
}

/// A comment runs from `#` to the end of the line; in quotes it is text.
fn without_comment(line: &str) -> &str {
    let mut quoted = false;
    for (at, c) in line.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '#' if !quoted => return line.get(..at).unwrap_or(line),
            _ => {}
        }
    }
    line
}
