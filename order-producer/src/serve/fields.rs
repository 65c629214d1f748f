//! The fields of a body, and what is wrong with them. Pure.

use order_events::FieldError;
use serde::Serialize;

use super::body::BodyError;
use super::json::Json;

/// Most problems that one answer lists.
pub(super) const PROBLEMS_MAX: usize = 50;

/// One thing that is wrong with a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct FieldProblem {
    /// JSON pointer of the field.
    pub(super) pointer: String,
    /// Stable, for programs.
    pub(super) code: &'static str,
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
            problems.add(&format!("{}/{name}", self.at), "invalid_field", detail);
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
    pub(super) fn add(&mut self, pointer: &str, code: &'static str, detail: impl Into<String>) {
        if self.0.len() < PROBLEMS_MAX {
            let (pointer, detail) = (pointer.to_owned(), detail.into());
            self.0.push(FieldProblem { pointer, code, detail });
        }
    }

    pub(super) fn missing<T>(&mut self, pointer: &str) -> Option<T> {
        self.add(pointer, "missing_field", "is missing");
        None
    }

    pub(super) fn wrong_kind<T>(
        &mut self,
        pointer: &str,
        expected: &str,
        found: &Json,
    ) -> Option<T> {
        self.add(pointer, "invalid_field", format!("expected {expected}, found {}", found.kind()));
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

/// With the codes of poison in a record, so that one table explains both.
pub(super) fn problem(pointer: String, error: &FieldError) -> FieldProblem {
    let code = match error {
        FieldError::Invalid(_) => "invalid_field",
        FieldError::Limit(_) => "limit_exceeded",
        FieldError::Overflow => "overflow",
    };
    FieldProblem { pointer, code, detail: error.to_string() }
}
