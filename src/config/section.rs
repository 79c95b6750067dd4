//! Owns walking one table of the file: each setting read once, what nobody asked for refused.
//! Must never know which settings exist.
//!
//! The table is walked by hand rather than derived, because a derived reader stops at the first
//! mistake of a file; this one notes it and goes on.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::name::Name;
use super::problem::{Complaint, Problems};
use super::value::kind;

/// Where each setting of a section stands, for checks across sections.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    header: Range<usize>,
    keys: BTreeMap<&'static str, Range<usize>>,
}

impl Places {
    /// Where `key` stands, or the section's header if it was left out.
    pub(super) fn of(&self, key: &str) -> Range<usize> {
        self.keys.get(key).unwrap_or(&self.header).clone()
    }

    /// Where the section begins.
    pub(super) fn header(&self) -> Range<usize> {
        self.header.clone()
    }
}

/// One table of the file while it is read.
pub(super) struct Section<'t> {
    /// For messages: "resource `r0`".
    title: String,
    table: Option<&'t DeTable<'t>>,
    asked: Vec<&'static str>,
    places: Places,
}

impl<'t> Section<'t> {
    /// The table `value`; complains if it is something else. `title` names it in messages.
    pub(super) fn open(
        title: impl Into<String>,
        header: Range<usize>,
        value: &'t Spanned<DeValue<'t>>,
        problems: &mut Problems,
    ) -> Self {
        let title = title.into();
        let table = value.get_ref().as_table();
        if table.is_none() {
            let what = format!("{title} is {} and should be a section", kind(value.get_ref()));
            problems.error(value.span(), Complaint::new(what, "write it as `[...]` with settings"));
        }
        Self::over(title, header, table)
    }

    /// Calls the section by another title in messages.
    pub(super) fn titled(self, title: String) -> Self {
        Self { title, ..self }
    }

    /// The whole file.
    pub(super) fn root(table: &'t DeTable<'t>) -> Self {
        Self::over("the file".to_owned(), 0..0, Some(table))
    }

    /// A section that is not there: all its settings have their defaults.
    pub(super) fn absent(header: Range<usize>) -> Self {
        Self::over(String::new(), header, None)
    }

    fn over(title: String, header: Range<usize>, table: Option<&'t DeTable<'t>>) -> Self {
        let places = Places { header, keys: BTreeMap::new() };
        Self { title, table, asked: Vec::new(), places }
    }

    /// Where the section begins.
    pub(super) fn header(&self) -> Range<usize> {
        self.places.header()
    }

    /// A setting, parsed by `read`; none if it is left out or wrong.
    pub(super) fn setting<T>(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Complaint>,
    ) -> Option<T> {
        let value = self.raw(key)?;
        match read(value.get_ref()) {
            Ok(parsed) => Some(parsed),
            Err(complaint) => {
                let what = format!("`{key}` of {}: {}", self.title, complaint.what);
                problems.error(value.span(), Complaint { what, ..complaint });
                None
            }
        }
    }

    /// A setting that must be there.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        example: &str,
        problems: &mut Problems,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Complaint>,
    ) -> Option<T> {
        if self.table.is_some_and(|table| !table.contains_key(key)) {
            let what = format!("{} has no `{key}`", self.title);
            let remedy = format!("add a line such as `{key} = {example}`");
            problems.missing(self.header(), Complaint::new(what, remedy));
        }
        self.setting(key, problems, read)
    }

    /// A sub-table, if it is there.
    pub(super) fn table(
        &mut self,
        key: &'static str,
        title: impl Into<String>,
        problems: &mut Problems,
    ) -> Self {
        match self.raw(key) {
            Some(value) => {
                let header = self.places.of(key);
                Self::open(title, header, value, problems)
            }
            None => Self::absent(self.header()),
        }
    }

    /// The named sub-tables of `key`: `[key.NAME]`, each with its name; bad names are complained
    /// of and left out.
    pub(super) fn named_tables(
        &mut self,
        key: &'static str,
        noun: &str,
        problems: &mut Problems,
    ) -> Vec<(Name, Self)> {
        let family = self.table(key, format!("`{key}`"), problems);
        let mut named = Vec::new();
        for (name, value) in family.table.into_iter().flatten() {
            let header = name.span();
            match Name::parse(name.get_ref()) {
                Ok(name) => {
                    let title = format!("{noun} `{name}`");
                    named.push((name, Self::open(title, header, value, problems)));
                }
                Err(why) => {
                    let what = format!("{:?} cannot name a {noun}: {why}", name.get_ref());
                    problems.error(header, Complaint::new(what, "choose another name"));
                }
            }
        }
        named
    }

    fn raw(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.asked.push(key);
        let (name, value) = self.table?.get_key_value(key)?;
        let place = match value.get_ref() {
            DeValue::Table(_) => name.span(),
            _ => value.span(),
        };
        self.places.keys.insert(key, place);
        Some(value)
    }

    /// Refuses every key that nobody asked for, and says where the others stand.
    pub(super) fn finish(self, problems: &mut Problems) -> Places {
        for key in self.table.into_iter().flat_map(DeTable::keys) {
            let name = key.get_ref().as_ref();
            if self.asked.contains(&name) {
                continue;
            }
            let what = format!("{} has no setting `{name}`", self.title);
            let remedy = match nearest(name, &self.asked) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("remove it, or use one of: {}", self.asked.join(", ")),
            };
            problems.unknown(key.span(), Complaint::new(what, remedy));
        }
        self.places
    }
}

/// The one of `candidates` that `typed` was probably meant to be.
pub(super) fn nearest<'c>(typed: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let typed: String = typed.chars().take(64).flat_map(char::to_lowercase).collect();
    let scored = candidates.iter().map(|candidate| (distance(&typed, candidate), *candidate));
    let (edits, best) = scored.min_by_key(|(edits, _)| *edits)?;
    (edits <= (best.len() / 3).max(1)).then_some(best)
}

/// How many letters must be added, dropped or changed to turn one text into the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
