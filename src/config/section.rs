//! Typed access to one table of a parsed file. A key that nobody asked for is unknown: [`Section::finish`] says
//! so. A value of the wrong type is reported and read as absent, so that the rest of the file is still looked at.

use std::cell::RefCell;
use std::fmt::Display;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::locate::{At, Place, Report, is_near, suggest};

/// A table being read.
#[derive(Debug)]
pub(super) struct Section<'a> {
    table: Option<&'a DeTable<'a>>,
    report: &'a Report<'a>,
    /// Where it begins.
    pub(super) place: Place,
    /// How messages call it: `[vrf.timeouts]`.
    pub(super) title: String,
    asked: RefCell<Vec<&'static str>>,
    /// Required keys that are absent. Told at the end: a misspelt one is a single fault.
    missing: RefCell<Vec<(&'static str, String, String)>>,
}

impl<'a> Section<'a> {
    pub(super) fn new(table: &'a DeTable<'a>, report: &'a Report<'a>, place: Place, title: String) -> Self {
        Self {
            table: Some(table),
            report,
            place,
            title,
            asked: RefCell::default(),
            missing: RefCell::default(),
        }
    }

    /// Collector of the file's faults.
    pub(super) const fn report(&self) -> &'a Report<'a> {
        self.report
    }

    /// Whether the table is in the file; an absent one is read as empty.
    pub(super) const fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// Place of a key's value, or of the table when the key is absent.
    pub(super) fn place_of(&self, key: &str) -> Place {
        self.peek(key).map_or(self.place, |v| v.span().into())
    }

    /// Whether a key is given.
    pub(super) fn has(&self, key: &str) -> bool {
        self.peek(key).is_some()
    }

    /// Whether a key of a table below is given.
    pub(super) fn nested_has(&self, table: &str, key: &str) -> bool {
        self.peek(table)
            .and_then(|v| v.get_ref().as_table())
            .is_some_and(|t| t.contains_key(key))
    }

    fn peek(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table?.get(key)
    }

    fn value(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.borrow_mut().push(key);
        self.peek(key)
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let found = value.get_ref().type_str();
        let article = if found.starts_with(['a', 'i']) { "an" } else { "a" };
        self.report.add(
            value.span().into(),
            format!("{key} is {article} {found}"),
            format!("write {wanted}"),
        );
    }

    /// A text.
    pub(super) fn text(&self, key: &'static str) -> Option<At<&'a str>> {
        let value = self.value(key)?;
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(key, value, "a text in quotes");
            return None;
        };
        Some(At {
            value: text,
            place: value.span().into(),
        })
    }

    /// A text with a syntax of its own; `parse` says what to write instead.
    pub(super) fn parsed<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<At<T>> {
        let text = self.text(key)?;
        self.convert(key, &text, parse)
    }

    /// The same, where a number may be written without quotes.
    pub(super) fn word_or_number<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<At<T>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => self.convert(
                key,
                &At {
                    value: number.as_str(),
                    place: value.span().into(),
                },
                parse,
            ),
            _ => self.parsed(key, parse),
        }
    }

    /// Whether a list is absent or has no items.
    pub(super) fn is_empty_list(&self, key: &str) -> bool {
        self.peek(key)
            .is_none_or(|v| v.get_ref().as_array().is_some_and(|a| a.is_empty()))
    }

    /// A list of texts with a syntax of their own; numbers are taken as their digits.
    pub(super) fn list<T>(
        &self,
        key: &'static str,
        mut parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Vec<At<T>> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list in square brackets");
            return Vec::new();
        };
        let mut list = Vec::with_capacity(array.len());
        for item in array.iter() {
            let place = item.span().into();
            let text = match item.get_ref() {
                DeValue::String(text) => text.as_ref(),
                DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
                _ => {
                    self.wrong_type(key, item, "texts in quotes");
                    continue;
                }
            };
            list.extend(self.convert(key, &At { value: text, place }, &mut parse));
        }
        list
    }

    fn convert<T>(
        &self,
        key: &str,
        text: &At<&str>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<At<T>> {
        match parse(text.value) {
            Ok(value) => Some(At {
                value,
                place: text.place,
            }),
            Err(advice) => {
                self.report.add(
                    text.place,
                    format!("{key} = \"{}\" can't be used", text.value),
                    advice,
                );
                None
            }
        }
    }

    /// A required text; its absence is a fault.
    pub(super) fn required(&self, key: &'static str, example: &str) -> Option<At<&'a str>> {
        if self.peek(key).is_none() {
            self.asked.borrow_mut().push(key);
            self.missing(key, example);
            return None;
        }
        self.text(key)
    }

    /// Notes that a required key is absent.
    pub(super) fn missing(&self, key: &'static str, example: &str) {
        self.missing_because(
            key,
            format!("{} has no {key}", self.title),
            format!("add {key} = {example}"),
        );
    }

    /// The same, in other words.
    pub(super) fn missing_because(
        &self,
        key: &'static str,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.missing.borrow_mut().push((key, what.into(), advice.into()));
    }

    /// Whether every item of a list was taken; a faulty one was reported, and what follows from it isn't.
    pub(super) fn took_all<T>(&self, key: &str, taken: &[T]) -> bool {
        self.peek(key)
            .is_none_or(|v| v.get_ref().as_array().is_some_and(|a| a.len() == taken.len()))
    }

    /// A whole number within bounds, or the default.
    pub(super) fn number<T>(&self, key: &'static str, bounds: std::ops::RangeInclusive<T>, default: T) -> T
    where
        T: TryFrom<i64> + PartialOrd + Display + Copy,
    {
        self.number_at(key, bounds).map_or(default, |n| n.value)
    }

    /// A whole number within bounds, when given.
    pub(super) fn number_at<T>(&self, key: &'static str, bounds: std::ops::RangeInclusive<T>) -> Option<At<T>>
    where
        T: TryFrom<i64> + PartialOrd + Display + Copy,
    {
        let value = self.value(key)?;
        let place = value.span().into();
        let Some(number) = value.get_ref().as_integer() else {
            self.wrong_type(key, value, "a whole number without quotes");
            return None;
        };
        let parsed = i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .and_then(|n| T::try_from(n).ok());
        match parsed {
            Some(n) if bounds.contains(&n) => Some(At { value: n, place }),
            _ => {
                let advice = format!("use {} to {}", bounds.start(), bounds.end());
                self.report
                    .add(place, format!("{key} = {number} is out of range"), advice);
                None
            }
        }
    }

    /// A truth value, or the default.
    pub(super) fn flag(&self, key: &'static str, default: bool) -> bool {
        let Some(value) = self.value(key) else {
            return default;
        };
        value.get_ref().as_bool().unwrap_or_else(|| {
            self.wrong_type(key, value, "true or false without quotes");
            default
        })
    }

    /// A table below this one; absent, it reads as empty and at this one's place.
    pub(super) fn section(&self, key: &'static str, title: &str) -> Self {
        let absent = Section {
            table: None,
            title: title.to_owned(),
            asked: RefCell::default(),
            missing: RefCell::default(),
            ..*self
        };
        let Some(value) = self.value(key) else {
            return absent;
        };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(key, value, &format!("it as a table, {title}"));
            return absent;
        };
        Section::new(table, self.report, value.span().into(), title.to_owned())
    }

    /// The tables of an array of tables.
    pub(super) fn sections(&self, key: &'static str, title: &str) -> Vec<Self> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, &format!("its header as {title}"));
            return Vec::new();
        };
        let mut sections = Vec::with_capacity(array.len());
        for item in array.iter() {
            match item.get_ref().as_table() {
                Some(table) => {
                    sections.push(Section::new(
                        table,
                        self.report,
                        item.span().into(),
                        title.to_owned(),
                    ));
                }
                None => self.wrong_type(key, item, &format!("each one as a table, {title}")),
            }
        }
        sections
    }

    /// Reports every key that wasn't asked for, and every required one that is absent and wasn't misspelt.
    pub(super) fn finish(self) {
        let asked = self.asked.into_inner();
        let mut missing = self.missing.into_inner();
        for (key, _) in self.table.into_iter().flatten() {
            let name = key.get_ref().as_ref();
            if asked.contains(&name) {
                continue;
            }
            missing.retain(|m| !is_near(name, m.0));
            let what = format!("unknown key {name} in {}", self.title);
            self.report
                .add(key.span().into(), what, suggest(name, asked.iter().copied()));
        }
        for (_, what, advice) in missing {
            self.report.add(self.place, what, advice);
        }
    }
}
