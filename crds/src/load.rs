//! From YAML text to a job that holds: unknown fields refused, defaults applied, shapes and rules checked, all from the
//! schema that a cluster's API server is given too. Every complaint names its field, its place, and what to write instead.

use std::fmt;

use serde_json::Value;

use crate::{
    schema::openapi_schema,
    streamjob::StreamJob,
    yaml::{self, Field, Kind, Node, Place},
};

/// What a StreamJob must say of itself.
const API_VERSION: &str = "weir.dev/v1alpha1";
const KIND: &str = "StreamJob";
/// What an object's metadata may hold. The schema leaves it open, since the API server knows it by itself.
const METADATA_FIELDS: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];
/// The longest name: it becomes a label's value, and the folder of the job's checkpoints.
const MAX_NAME: usize = 63;

/// One thing that is wrong with a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The dotted path of the field; empty for the document.
    pub field: String,
    /// Its line, from 1; 0 where unknown.
    pub line: u64,
    /// Its column, from 1; 0 where unknown.
    pub column: u64,
    /// What is wrong, and what to write instead.
    pub message: String,
}

/// Why a text is no job that can run. All that is wrong, not only the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobError {
    /// Never empty; in the order of the text.
    pub problems: Vec<Problem>,
}

impl fmt::Display for JobError {
    /// One line for each problem: `line:column: field: message`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}, column {}: ", self.line, self.column)?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for JobError {}

/// Reads one StreamJob and holds it against the CRD's schema, defaults and rules.
pub fn load_job(text: &str) -> Result<StreamJob, JobError> {
    let root = yaml::parse(text).map_err(|error| not_yaml(&error))?;
    let mut check = Check { root: &root, problems: Vec::new() };
    check.identity();
    check.done()?;

    let schema = openapi_schema();
    let mut check = Check { root: &root, problems: Vec::new() };
    check.unknown_fields(&root, &schema, "");
    check.done()?;

    let value = kube_cel::apply_defaults(&schema, &root.to_json());
    let mut check = Check { root: &root, problems: Vec::new() };
    check.shape(&value, &schema, "");
    check.done()?;

    let mut check = Check { root: &root, problems: Vec::new() };
    check.rules(&value, &schema);
    check.done()?;

    serde_json::from_value(value).map_err(|error| JobError {
        problems: vec![Problem { field: String::new(), line: 0, column: 0, message: error.to_string() }],
    })
}

fn not_yaml(error: &serde_saphyr::Error) -> JobError {
    let place = error.location().map(|at| Place { line: at.line(), column: at.column() }).unwrap_or_default();
    let message = error.to_string();
    // The parser's own text ends in the place, which is said before it already.
    let message = message.split(" at line ").next().unwrap_or(&message);
    JobError {
        problems: vec![Problem {
            field: String::new(),
            line: place.line,
            column: place.column,
            message: format!("is not YAML: {message}"),
        }],
    }
}

struct Check<'a> {
    root: &'a Node,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn done(mut self) -> Result<(), JobError> {
        if self.problems.is_empty() {
            return Ok(());
        }
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        Err(JobError { problems: self.problems })
    }

    fn add(&mut self, field: &str, message: impl Into<String>) {
        let place = self.root.place_of(field);
        self.add_at(field, place, message);
    }

    fn add_at(&mut self, field: &str, place: Place, message: impl Into<String>) {
        self.problems.push(Problem {
            field: field.to_string(),
            line: place.line,
            column: place.column,
            message: message.into(),
        });
    }

    /// apiVersion, kind and names: whether this is a StreamJob at all.
    fn identity(&mut self) {
        let value = self.root.to_json();
        if !value.is_object() {
            self.add("", format!("is no StreamJob: it begins with apiVersion: {API_VERSION} and kind: {KIND}"));
            return;
        }
        for (field, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
            match value.get(field).and_then(Value::as_str) {
                Some(found) if found == expected => {}
                Some(found) => {
                    self.add(field, format!("is {found:?}, which is no StreamJob: write {field}: {expected}"));
                }
                None => self.add("", format!("is no StreamJob: {field} is missing; write {field}: {expected}")),
            }
        }
        match value.pointer("/metadata/name").and_then(Value::as_str) {
            Some(name) => self.name("metadata.name", name),
            None => self.add("metadata.name", "is missing: give the job a name"),
        }
        if let Some(namespace) = value.pointer("/metadata/namespace").and_then(Value::as_str) {
            self.name("metadata.namespace", namespace);
        }
    }

    /// Names become folders and labels, so they hold nothing that could leave a prefix.
    fn name(&mut self, field: &str, name: &str) {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let fits = !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(inner);
        if !fits || name.starts_with('-') || name.ends_with('-') {
            self.add(
                field,
                format!("{name:?} is no name: up to {MAX_NAME} lower-case letters, digits and dashes, a letter or digit at both ends"),
            );
        }
    }

    fn unknown_fields(&mut self, node: &Node, schema: &Value, path: &str) {
        if schema.get("x-kubernetes-preserve-unknown-fields").is_some() {
            return;
        }
        match &node.kind {
            Kind::Map(fields) => {
                let properties = schema.get("properties").and_then(Value::as_object);
                let others = schema.get("additionalProperties").filter(|schema| schema.is_object());
                for field in fields {
                    let below = join(path, &field.name);
                    match properties.and_then(|known| known.get(&field.name)) {
                        Some(known) => self.unknown_fields(&field.node, known, &below),
                        None if others.is_some() => {}
                        None if path.is_empty() && field.name == "metadata" => {
                            self.unknown_fields(&field.node, &Value::Null, &below);
                        }
                        None if path.is_empty() && ["apiVersion", "kind"].contains(&field.name.as_str()) => {}
                        None if path == "metadata" => self.unknown_field(&METADATA_FIELDS, field, &below),
                        None => {
                            let mut known: Vec<&str> =
                                properties.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
                            if path.is_empty() {
                                known.extend(["apiVersion", "kind", "metadata"]);
                            }
                            self.unknown_field(&known, field, &below);
                        }
                    }
                }
            }
            Kind::List(items) => {
                if let Some(item_schema) = schema.get("items") {
                    for (i, item) in items.iter().enumerate() {
                        self.unknown_fields(item, item_schema, &format!("{path}[{i}]"));
                    }
                }
            }
            Kind::Scalar(_) => {}
        }
    }

    fn unknown_field(&mut self, known: &[&str], field: &Field, path: &str) {
        if known.contains(&field.name.as_str()) {
            return;
        }
        let remedy = match nearest(&field.name, known) {
            Some(name) => format!("did you mean {name}?"),
            None if known.is_empty() => "nothing is expected here".to_string(),
            None => format!("known here: {}", known.join(", ")),
        };
        self.add_at(path, field.place, format!("unknown field {:?}: {remedy}", field.name));
    }

    /// Types, required fields, enums and bounds.
    fn shape(&mut self, value: &Value, schema: &Value, path: &str) {
        if schema.get("x-kubernetes-int-or-string").is_some() {
            match value {
                Value::Number(number) if number.is_u64() => {}
                Value::String(text) => {
                    if let Err(error) = text.parse::<crate::Quantity>() {
                        self.add(path, error.to_string());
                    }
                }
                _ => self.add(path, format!("is {}; write a quantity such as 512Mi", kind_of(value))),
            }
            return;
        }
        let expected = schema.get("type").and_then(Value::as_str).unwrap_or_default();
        let fits = match expected {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            _ => true,
        };
        if !fits {
            let remedy = match (expected, value) {
                ("string", Value::Number(number)) if is_duration(schema) => format!("write a unit too: {number}s"),
                ("string", _) => "write a text, in quotes where it looks like something else".to_string(),
                ("integer", _) => "write a whole number".to_string(),
                ("boolean", _) => "write true or false".to_string(),
                ("object", _) => "write fields below it, indented".to_string(),
                _ => format!("write {expected}"),
            };
            self.add(path, format!("is {}: {remedy}", kind_of(value)));
            return;
        }
        if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
            && !allowed.contains(value)
        {
            let words: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
            let found = value.as_str().unwrap_or_default();
            let hint = nearest(found, &words).map(|word| format!("did you mean {word}? ")).unwrap_or_default();
            self.add(path, format!("{found:?} is not known here: {hint}allowed: {}", words.join(", ")));
        }
        self.bounds(value, schema, path);
        if let Some(object) = value.as_object() {
            for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
            {
                if !object.contains_key(name) {
                    self.add(&join(path, name), "is missing");
                }
            }
            let properties = schema.get("properties").and_then(Value::as_object);
            let others = schema.get("additionalProperties").filter(|schema| schema.is_object());
            for (name, below) in object {
                if let Some(schema) = properties.and_then(|known| known.get(name)).or(others) {
                    self.shape(below, schema, &join(path, name));
                }
            }
        }
        if let (Some(items), Some(schema)) = (value.as_array(), schema.get("items")) {
            for (i, item) in items.iter().enumerate() {
                self.shape(item, schema, &format!("{path}[{i}]"));
            }
        }
    }

    fn bounds(&mut self, value: &Value, schema: &Value, path: &str) {
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        if let Some(number) = value.as_f64() {
            if let Some(least) = bound("minimum").filter(|least| number < *least) {
                self.add(path, format!("{number} is too small: {least} at least"));
            }
            if let Some(most) = bound("maximum").filter(|most| number > *most) {
                self.add(path, format!("{number} is too large: {most} at most"));
            }
        }
        if let Some(text) = value.as_str() {
            let length = text.chars().count() as f64;
            if bound("minLength").is_some_and(|least| length < least) {
                self.add(path, "is empty");
            }
            if let Some(most) = bound("maxLength").filter(|most| length > *most) {
                self.add(path, format!("is too long: {most} characters at most"));
            }
        }
    }

    /// The CEL rules of the schema, by kube-cel, which evaluates them as the API server does.
    fn rules(&mut self, value: &Value, schema: &Value) {
        let Err(errors) = kube_cel::Validator::new().validate(schema, value, None) else { return };
        let errors = errors.into_vec();
        // A rule over a field that is itself wrong fails to evaluate; the field's own message is the one to show.
        let failed = |kind: &kube_cel::ErrorKind| matches!(kind, kube_cel::ErrorKind::ValidationFailure);
        let any_failed = errors.iter().any(|error| failed(&error.kind));
        for error in errors.iter().filter(|error| !any_failed || failed(&error.kind)) {
            let found = value.pointer(&format!("/{}", error.field_path.replace('.', "/"))).and_then(Value::as_str);
            let message = match found {
                Some(text) if text.len() <= 64 => format!("{text:?} {}", error.message),
                _ => error.message.clone(),
            };
            self.add(&error.field_path, message);
        }
    }
}

fn is_duration(schema: &Value) -> bool {
    schema.get("x-kubernetes-validations").is_some_and(|rules| rules.to_string().contains("is no duration"))
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_string() } else { format!("{path}.{name}") }
}

fn kind_of(value: &Value) -> String {
    match value {
        Value::Null => "empty".to_string(),
        Value::Bool(flag) => format!("{flag}, a truth value"),
        Value::Number(number) => format!("{number}, a number"),
        Value::String(text) => format!("{text:?}, a text"),
        Value::Array(_) => "a list".to_string(),
        Value::Object(_) => "a set of fields".to_string(),
    }
}

/// The known word that is nearest to what was written, if any is near enough to be what was meant.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase();
    known
        .iter()
        .map(|candidate| (edits(&word, &candidate.to_lowercase()), *candidate))
        .filter(|(edits, candidate)| *edits <= (candidate.len().max(word.len()) / 3).max(1))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
