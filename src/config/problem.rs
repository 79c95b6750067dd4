//! Owns how a mistake in the file is shown: file, line, caret, and what to do about it.
//! Must never decide what is a mistake.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// How grave a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used; somebody should look.
    Warning,
}

/// One thing wrong with the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How grave.
    pub severity: Severity,
    /// Where, in bytes of the file.
    pub span: Range<usize>,
    /// What is wrong, naming section and key.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
    /// A second place it conflicts with, and what stands there.
    pub other: Option<(Range<usize>, String)>,
    doubt: Doubt,
}

/// How a problem may be only the consequence of a line that did not parse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// It is wrong in itself.
    None,
    /// Something is missing: it may stand on that line.
    Missing,
    /// A setting is in the wrong section: the header that it belongs under may be that line.
    Misplaced,
}

/// What a reader of one value has to say against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) what: String,
    pub(super) remedy: String,
}

impl Complaint {
    pub(super) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

/// Problems as they are found.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: Vec<Problem>,
}

impl Problems {
    pub(super) fn error(&mut self, span: Range<usize>, complaint: Complaint) {
        self.push(Severity::Error, span, complaint);
    }

    pub(super) fn warning(&mut self, span: Range<usize>, complaint: Complaint) {
        self.push(Severity::Warning, span, complaint);
    }

    /// Something that must be there is not.
    pub(super) fn missing(&mut self, span: Range<usize>, complaint: Complaint) {
        self.push(Severity::Error, span, complaint).doubt = Doubt::Missing;
    }

    /// Something is not used by anything else in the file.
    pub(super) fn unused(&mut self, span: Range<usize>, complaint: Complaint) {
        self.push(Severity::Warning, span, complaint).doubt = Doubt::Missing;
    }

    /// A setting is not known where it stands.
    pub(super) fn unknown(&mut self, span: Range<usize>, complaint: Complaint) {
        self.push(Severity::Error, span, complaint).doubt = Doubt::Misplaced;
    }

    /// Two places contradict each other.
    pub(super) fn clash(
        &mut self,
        span: Range<usize>,
        complaint: Complaint,
        other: (Range<usize>, &str),
    ) {
        let (place, label) = other;
        self.push(Severity::Error, span, complaint).other = Some((place, label.to_owned()));
    }

    fn push(
        &mut self,
        severity: Severity,
        span: Range<usize>,
        complaint: Complaint,
    ) -> &mut Problem {
        let Complaint { what, remedy } = complaint;
        let at = self.found.len();
        self.found.push(Problem { severity, span, what, remedy, other: None, doubt: Doubt::None });
        &mut self.found[at]
    }

    /// Forgets what may only follow from `broken`, places that did not parse: whatever is
    /// missing, whatever is said about the same line of `text`, and after a broken section header
    /// whatever seems to be in the wrong section.
    pub(super) fn forget_consequences(&mut self, text: &str, broken: &[Problem]) {
        let start = |at: usize| {
            let before = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
            before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
        };
        let lines: Vec<usize> = broken.iter().map(|problem| start(problem.span.start)).collect();
        let is_header =
            |line: &usize| text.as_bytes()[*line..].trim_ascii_start().starts_with(b"[");
        let header_broken = lines.iter().any(is_header);
        self.found.retain(|problem| {
            let implied = match problem.doubt {
                Doubt::None => false,
                Doubt::Missing => true,
                Doubt::Misplaced => header_broken,
            };
            !implied && !lines.contains(&start(problem.span.start))
        });
    }

    /// The problems in the order of the file.
    pub(super) fn into_sorted(mut self) -> Vec<Problem> {
        self.found.sort_by_key(|problem| (problem.span.start, problem.span.end));
        self.found
    }
}

/// The problems of one file, with all that is needed to show them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The file.
    pub path: PathBuf,
    pub(super) text: String,
    /// What is wrong, in the order of the file.
    pub problems: Vec<Problem>,
}

impl Report {
    pub(super) fn new(path: &Path, text: &str, problems: Vec<Problem>) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), problems }
    }

    /// How many problems make the file unusable.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.problems.iter().filter(|problem| problem.severity == Severity::Error).count()
    }

    /// The line a problem stands in, from 1.
    #[must_use]
    pub fn line(&self, problem: &Problem) -> usize {
        let before = self.text.as_bytes().iter().take(problem.span.start);
        before.filter(|byte| **byte == b'\n').count() + 1
    }

    /// Each problem with its line, a caret and a remedy; with ANSI colours if `colour`.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let path = self.path.display().to_string();
        let shown = self.problems.iter().map(|it| renderer.render(&[self.group(it, &path)]));
        shown.collect::<Vec<_>>().join("\n\n")
    }

    fn group<'a>(&'a self, problem: &'a Problem, path: &'a str) -> Group<'a> {
        let level = match problem.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let place = AnnotationKind::Primary.span(self.within(&problem.span));
        let mut snippet = Snippet::source(self.text.as_str()).path(path).annotation(place);
        if let Some((span, label)) = &problem.other {
            let other = AnnotationKind::Context.span(self.within(span)).label(label.as_str());
            snippet = snippet.annotation(other);
        }
        let title = level.primary_title(problem.what.as_str());
        title.element(snippet).element(Level::HELP.message(problem.remedy.as_str()))
    }

    /// The span cut to its first line and to character boundaries: what can be underlined.
    fn within(&self, span: &Range<usize>) -> Range<usize> {
        let mut start = span.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let line_end = self.text[start..].find('\n').map_or(self.text.len(), |at| start + at);
        let mut end = span.end.clamp(start, line_end.max(start));
        while !self.text.is_char_boundary(end) {
            end += 1;
        }
        start..end
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}
