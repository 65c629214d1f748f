//! The fields of a body, and what is wrong with them. Pure.

use order_events::FieldError;
use serde::Serialize;

use super::body::BodyError;
use super::json::Json;

/// Most problems that one answer lists.
pub(super) const PROBLEMS_MAX: usize = 50;

/// What is wrong with a field, for programs: the codes of poison in a record, so that one table explains
/// both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FieldCode {
    InvalidField,
    MissingField,
    LimitExceeded,
    Overflow,
}

impl FieldCode {
    pub(super) const ALL: [Self; 4] =
        [Self::InvalidField, Self::MissingField, Self::LimitExceeded, Self::Overflow];
}

/// One thing that is wrong with a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct FieldProblem {
    /// JSON pointer of the field.
    pub(super) pointer: String,
    pub(super) code: FieldCode,
    /// For people.
    pub(super) detail: String,
}

/// The fields of an object. Those that nobody asks for are ignored, as in events.
pub(super) struct Fields<'a> {
    at: &'a str,
    fields: Vec<(String, Json)>,
}

impl<'a> Fields<'a> {
    pub(super) fn of(value: Json, at: &'a str, problems: &mut Problems) -> Option<Self> {
        match value {
            Json::Object(fields) => Some(Self { at, fields }),
            other => problems.wrong_kind(at, "an object", &other),
        }
    }

    /// The field's value, if it is there; twice is a problem, since readers disagree on which counts.
    pub(super) fn take(&mut self, name: &str, problems: &mut Problems) -> Option<Json> {
        let mut found = None;
        let mut times = 0;
        for (field, value) in &mut self.fields {
            if field == name {
                times += 1;
                found = Some(std::mem::replace(value, Json::Null));
            }
        }
        if times > 1 {
            let detail = "appears more than once; readers disagree on which one counts";
            problems.add(&format!("{}/{name}", self.at), FieldCode::InvalidField, detail);
        }
        found
    }

    pub(super) fn text<T>(
        &mut self,
        name: &str,
        read: fn(&str) -> Result<T, FieldError>,
        problems: &mut Problems,
    ) -> Option<T> {
        let at = format!("{}/{name}", self.at);
        match self.take(name, problems) {
            Some(Json::Text(text)) => problems.take(read(&text), &at),
            Some(other) => problems.wrong_kind(&at, "text in quotes", &other),
            None => problems.missing(&at),
        }
    }

    pub(super) fn integer(&mut self, name: &str, problems: &mut Problems) -> Option<i64> {
        let at = format!("{}/{name}", self.at);
        match self.take(name, problems) {
            Some(Json::Integer(number)) => Some(number),
            Some(other) => problems.wrong_kind(&at, "an integer without fraction", &other),
            None => problems.missing(&at),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Problems(pub(super) Vec<FieldProblem>);

impl Problems {
    pub(super) fn add(&mut self, pointer: &str, code: FieldCode, detail: impl Into<String>) {
        if self.0.len() < PROBLEMS_MAX {
            let (pointer, detail) = (pointer.to_owned(), detail.into());
            self.0.push(FieldProblem { pointer, code, detail });
        }
    }

    pub(super) fn missing<T>(&mut self, pointer: &str) -> Option<T> {
        self.add(pointer, FieldCode::MissingField, "is missing");
        None
    }

    pub(super) fn wrong_kind<T>(
        &mut self,
        pointer: &str,
        expected: &str,
        found: &Json,
    ) -> Option<T> {
        self.add(
            pointer,
            FieldCode::InvalidField,
            format!("expected {expected}, found {}", found.kind()),
        );
        None
    }

    pub(super) fn take<T>(&mut self, read: Result<T, FieldError>, pointer: &str) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(error) => {
                let FieldProblem { pointer, code, detail } = problem(pointer.to_owned(), &error);
                self.add(&pointer, code, detail);
                None
            }
        }
    }
}

impl From<Problems> for BodyError {
    fn from(problems: Problems) -> Self {
        Self::Fields(problems.0)
    }
}

pub(super) fn problem(pointer: String, error: &FieldError) -> FieldProblem {
    let code = match error {
        FieldError::Invalid(_) => FieldCode::InvalidField,
        FieldError::Limit(_) => FieldCode::LimitExceeded,
        FieldError::Overflow => FieldCode::Overflow,
    };
    FieldProblem { pointer, code, detail: error.to_string() }
}
