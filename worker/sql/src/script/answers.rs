//! SHOW, DESCRIBE and EXPLAIN: what a script is answered where it asks. A job runs the same with and without them.

use std::fmt::Write;

use arrow::datatypes::DataType;
use serde::Serialize;

use super::{Script, Written, columns_of};
use crate::error::{Place, PlanError};
use crate::logical::optimize::optimize;
use crate::logical::size::check_plan;
use crate::names::catalog::{Origin, Table};
use crate::parse::dialect::{ColumnKind, CreateTable};
use crate::parse::statements::{Ask, Explained, Name, Shown};
use crate::parse::types::flink_name;
use crate::physical::build::Builder;
use crate::physical::build::sink::Writes;
use crate::physical::changelog::Needs;
use crate::physical::show;

/// Rows of texts; none is NULL.
type Rows = Vec<Vec<Option<String>>>;

/// What a statement is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The line that asks, from 1.
    pub line: u64,
    /// The columns of the answer.
    pub columns: Vec<String>,
    /// Its rows; none is NULL.
    pub rows: Rows,
}

impl Script<'_> {
    /// Answers.
    pub(super) fn ask(&mut self, ask: Ask, place: Place) -> Result<(), PlanError> {
        self.end = place;
        let (columns, rows): (&[&str], _) = match ask {
            Ask::Show(shown) => self.list(shown, place)?,
            Ask::Create(name) => (&["result"], vec![vec![Some(self.create_text(&name)?)]]),
            Ask::Columns(name) => (&["name", "type", "null", "key", "extras", "watermark"], self.columns(&name)?),
            Ask::Settings => (&["key", "value"], self.set.iter().map(|(key, value)| row([key, value])).collect()),
            Ask::Explain(explained) => {
                let mut text = String::new();
                for explained in explained {
                    text.push_str(&self.explain(explained)?);
                }
                (&["result"], vec![vec![Some(text)]])
            }
        };
        let columns = columns.iter().map(ToString::to_string).collect();
        self.answers.push(Answer { line: place.line, columns, rows });
        Ok(())
    }

    fn list(&self, shown: Shown, place: Place) -> Result<(&'static [&'static str], Rows), PlanError> {
        let (catalog, database) = self.names.in_use();
        let prefix = self.names.path(&[""]);
        let here = |name: &str| -> Option<Vec<Option<String>>> {
            let name = name.strip_prefix(prefix.as_str())?;
            (!prefix.is_empty() || !name.contains('.')).then(|| row([name]))
        };
        Ok(match shown {
            Shown::Tables => {
                let mut names: Vec<_> =
                    self.names.table_names().chain(self.names.view_names()).filter_map(here).collect();
                names.sort();
                (&["table name"], names)
            }
            Shown::Views => (&["view name"], self.names.view_names().filter_map(here).collect()),
            Shown::Databases => {
                let databases = self.names.databases(catalog, place)?;
                (&["database name"], databases.names.iter().map(|name| row([name])).collect())
            }
            Shown::Catalogs => (&["catalog name"], self.names.catalog_names().map(|name| row([name])).collect()),
            Shown::Functions => {
                let mut names = self.names.functions().names();
                names.retain(|name| !name.starts_with('$'));
                names.sort();
                (&["function name"], names.iter().map(|name| row([name])).collect())
            }
            Shown::CurrentCatalog => (&["current catalog name"], vec![row([catalog])]),
            Shown::CurrentDatabase => (&["current database name"], vec![row([database])]),
            Shown::Jars => (&["jars"], Vec::new()),
            Shown::Modules => (&["module name"], vec![row(["core"])]),
        })
    }

    /// The columns of a table or view, as Flink describes them.
    fn columns(&self, name: &Name) -> Result<Rows, PlanError> {
        let path = self.names.path(&name.texts());
        if let Some(table) = self.names.table(&path) {
            return Ok((0..table.columns.len()).map(|column| described(table, column)).collect());
        }
        let Some(view) = self.names.view(&path) else { return Err(self.names.unknown_table(&path, name.place())) };
        let fields = view.fields();
        Ok(fields
            .iter()
            .map(|field| {
                let null = field.is_nullable().to_string().to_uppercase();
                vec![Some(field.name().clone()), Some(flink_name(field.data_type())), Some(null), None, None, None]
            })
            .collect())
    }

    fn create_text(&self, name: &Name) -> Result<String, PlanError> {
        let path = self.names.path(&name.texts());
        match (self.names.table(&path), self.names.view(&path)) {
            (Some(table), _) => Ok(table_text(table)),
            (_, Some(view)) => Ok(format!("CREATE VIEW `{path}` AS {}", view.text())),
            _ => Err(self.names.unknown_table(&path, name.place())),
        }
    }

    /// The plan of one statement, as a tree from its sink to its sources.
    fn explain(&mut self, explained: Explained) -> Result<String, PlanError> {
        let written = match explained {
            Explained::Insert(insert) => self.query_of(insert)?,
            Explained::Query(mut query, place) => {
                self.checked(&mut query, place)?;
                let plan = self.query(&query, place)?;
                check_plan(&plan, place)?;
                let name = Name { parts: vec![datafusion_sql::sqlparser::ast::Ident::new("result")] };
                let create = columns_of(CreateTable::printing(name, place), &plan, place)?;
                let sink = std::sync::Arc::new(self.table("result".to_string(), create)?);
                let target = super::targets(&[], &sink)?;
                let plan = optimize(super::into_sink(plan, &sink, &target, place, place, &[])?, place)?;
                Written { plan, sink, place, at: place, conflict: None }
            }
        };
        let logical = written.plan.display_indent().to_string();
        let mut builder = Builder::new(&self.settings, &self.catalog.connectors, self.base_dir);
        builder.share(&written.plan);
        let Written { plan, sink, place, at, conflict } = &written;
        let sink_node =
            builder.insert(plan, &Writes { statement: 0, sink, place: *place, at: *at, conflict: *conflict })?;
        let needs = Needs::of(&builder.tree);
        let mut text = format!("== Optimized Logical Plan ==\n{logical}\n\n== Execution Plan ==\n");
        show::indented(&builder.tree, &needs, sink_node, 0, &mut text);
        Ok(text)
    }
}

fn row<'t>(texts: impl IntoIterator<Item = &'t (impl AsRef<str> + ?Sized + 't)>) -> Vec<Option<String>> {
    texts.into_iter().map(|text| Some(text.as_ref().to_string())).collect()
}

fn described(table: &Table, column: usize) -> Vec<Option<String>> {
    let field = table.schema.field(column);
    let is_key = table.primary_key_columns().contains(&column);
    let keys: Vec<&str> = table.primary_key.iter().map(|&key| table.physical.field(key).name().as_str()).collect();
    let extras = match &table.columns[column].origin {
        Origin::Physical(_) => None,
        Origin::Computed(_) => {
            table.declared.columns.iter().find(|declared| declared.name.value == *field.name()).and_then(|declared| {
                match &declared.kind {
                    ColumnKind::Computed(expr) => Some(format!("AS {expr}")),
                    ColumnKind::Physical { .. } | ColumnKind::Metadata { .. } => None,
                }
            })
        }
    };
    let watermark = table.watermark.as_ref().filter(|watermark| watermark.column == column);
    let declared = table.declared.watermark.as_ref().filter(|_| watermark.is_some());
    vec![
        Some(field.name().clone()),
        Some(type_text(field.data_type(), table, column)),
        Some((field.is_nullable() && !is_key).to_string().to_uppercase()),
        is_key.then(|| format!("PRI({})", keys.join(", "))),
        extras,
        declared.map(|watermark| watermark.expr.to_string()),
    ]
}

/// A type with the time that the column measures, as Flink says it.
fn type_text(data_type: &DataType, table: &Table, column: usize) -> String {
    let name = flink_name(data_type);
    match table.time_of(column) {
        Some(crate::logical::columns::Time::Event) => format!("{name} *ROWTIME*"),
        Some(crate::logical::columns::Time::Processing) => format!("{name} *PROCTIME*"),
        None => name,
    }
}

fn table_text(table: &Table) -> String {
    let declared = &table.declared;
    let quoted = |names: &[datafusion_sql::sqlparser::ast::Ident]| {
        names.iter().map(|name| format!("`{}`", name.value)).collect::<Vec<_>>().join(", ")
    };
    let mut lines: Vec<String> = declared
        .columns
        .iter()
        .map(|column| {
            let kind = match &column.kind {
                ColumnKind::Physical { data_type, nullable } => {
                    format!("{}{}", flink_name(data_type), if *nullable { "" } else { " NOT NULL" })
                }
                ColumnKind::Computed(expr) => format!("AS {expr}"),
                ColumnKind::Metadata { data_type, nullable, key, is_virtual } => format!(
                    "{}{} METADATA FROM '{key}'{}",
                    flink_name(data_type),
                    if *nullable { "" } else { " NOT NULL" },
                    if *is_virtual { " VIRTUAL" } else { "" }
                ),
            };
            format!("`{}` {kind}", column.name.value)
        })
        .collect();
    if let Some(watermark) = &declared.watermark {
        let column: Vec<String> = watermark.column.iter().map(|part| format!("`{}`", part.value)).collect();
        lines.push(format!("WATERMARK FOR {} AS {}", column.join("."), watermark.expr));
    }
    if !declared.primary_key.is_empty() {
        lines.push(format!("PRIMARY KEY ({}) NOT ENFORCED", quoted(&declared.primary_key)));
    }
    let mut text = format!("CREATE TABLE `{}` (\n  {}\n)", table.name, lines.join(",\n  "));
    if !declared.partitioned.is_empty() {
        // Writing to a text does not fail.
        let _ = write!(text, "\nPARTITIONED BY ({})", quoted(&declared.partitioned));
    }
    let secret = |key: &str| ["password", "secret", "jaas"].iter().any(|word| key.contains(word));
    let options: Vec<String> = table
        .options
        .iter()
        .map(|option| {
            let value = if secret(&option.key) { "******" } else { &option.value };
            format!("'{}' = '{}'", option.key, value.replace('\'', "''"))
        })
        .collect();
    let _ = write!(text, "\nWITH (\n  {}\n)", options.join(",\n  "));
    text
}
