//! Statement after statement: tables and views into the catalog, all INSERTs into one plan.

pub(crate) mod answers;
mod hints;
mod names;
mod results;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion_common::{Column as ColumnName, ScalarValue};
use datafusion_expr::{Expr, ExprSchemable, LogicalPlan, Projection};
use datafusion_sql::sqlparser::ast::{self, Ident, Query, SelectItem, SetExpr, Spanned};
use weir_connectors::Metadata;
use weir_engine::{Kin, PlanWarning, Stage, StageHead};
use weir_protocol::settings::PlanRequest;

use crate::error::{Place, PlanError};
use crate::logical::columns::{Time, of_expr};
use crate::logical::exprs::{cast_to, plan_expr, plan_query, unqualified};
use crate::logical::optimize::{analyze, optimize};
use crate::logical::size::check_plan;
use crate::lower::{Lowered, lower};
use crate::names::catalog::{Catalog, Column, Names, Origin, Table, View, Watermark};
use crate::parse::bounds::check_script;
use crate::parse::check::{check_expr, check_query, unknown_column};
use crate::parse::dialect::{
    ColumnDef, ColumnKind, Conflict, CreateTable, CreateView, Insert, WatermarkDef, parse_script,
};
use crate::parse::locate::locate;
use crate::parse::loose::Hints;
use crate::parse::statements::{Name, Statement};
use crate::parse::types::{casts_implicitly, flink_name};
use crate::physical::build::Builder;
use crate::physical::build::sink::Writes;
use crate::physical::changelog::Needs;
use crate::physical::show::Shown;
use crate::physical::tree::Tree;
use crate::script::answers::Answer;
use crate::settings::{Settings, Taken};

/// What a script comes to.
pub struct Planned {
    /// The stages of all INSERTs.
    pub stages: Vec<Stage>,
    /// What a user should know.
    pub warnings: Vec<PlanWarning>,
    /// All that the stages do not say about how they run.
    pub details: Vec<String>,
    /// Several queries read the same.
    pub shares: bool,
}

/// What several queries have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Is computed once, as far as the script lets it.
    AsSet,
    /// Is computed by each: as builds planned that knew no sharing.
    Never,
}

/// Plans the script.
pub fn plan_script(request: &PlanRequest, catalog: &Catalog, sharing: Sharing) -> Result<Planned, PlanError> {
    let first = |errors: Vec<PlanError>| errors.into_iter().next().unwrap_or_else(|| nothing(Place::default()));
    let mut script = read_script(request, catalog).map_err(first)?;
    if sharing == Sharing::Never {
        script.settings = script.settings.unshared();
    }
    script.lower().map_err(first)
}

/// All that is wrong with the script, in the order of its lines; nothing if it can be planned.
pub fn faults(request: &PlanRequest, catalog: &Catalog) -> Vec<PlanError> {
    let Err(mut errors) = read_script(request, catalog).and_then(Script::lower) else { return Vec::new() };
    errors.sort_by_key(|error| (error.line.is_none(), error.place()));
    errors.dedup();
    errors
}

/// What the script asks, answered; nothing where it cannot be read.
pub fn answers(request: &PlanRequest, catalog: &Catalog) -> Vec<Answer> {
    let asks = parse_script(&request.script)
        .is_ok_and(|parsed| parsed.statements.iter().any(|statement| matches!(statement, Statement::Ask(..))));
    if !asks {
        return Vec::new();
    }
    read_script(request, catalog).map(|script| script.answers).unwrap_or_default()
}

/// Reads all that a script declares, sets and inserts. The errors are never none.
fn read_script<'a>(request: &'a PlanRequest, catalog: &'a Catalog) -> Result<Script<'a>, Vec<PlanError>> {
    check_script(&request.script).map_err(|error| vec![error])?;
    let parsed = parse_script(&request.script).map_err(|error| vec![error])?;
    let mut script = Script {
        catalog,
        base_dir: Path::new(&request.base_dir),
        names: Names::new(catalog.functions.clone()),
        settings: Settings::default(),
        hints: parsed.hints,
        results: results::connector(&parsed.statements),
        written: Vec::new(),
        answers: Vec::new(),
        set: BTreeMap::new(),
        warnings: Vec::new(),
        end: Place { line: 1, column: 1 },
    };
    let mut errors = parsed.errors;
    for statement in parsed.statements {
        let declares = script.declares(&statement);
        if let Err(error) = script.statement(statement) {
            if !script.names.follows(&error) {
                errors.push(error);
            }
            if let Some(name) = declares {
                script.names.add_broken(name);
            }
        }
    }
    script.unused_hints();
    if script.written.is_empty() && errors.is_empty() && script.results.is_none() {
        errors.push(nothing(script.end));
    }
    if errors.is_empty() { Ok(script) } else { Err(errors) }
}

fn nothing(end: Place) -> PlanError {
    PlanError::new(end, "the script inserts nothing", "add INSERT INTO <table> SELECT … FROM …")
}

struct Script<'a> {
    catalog: &'a Catalog,
    base_dir: &'a Path,
    names: Names,
    settings: Settings,
    hints: Hints,
    /// The connector that takes the results of queries that stand alone.
    results: Option<String>,
    /// The INSERTs so far.
    written: Vec<Written>,
    /// What the script has been answered.
    answers: Vec<Answer>,
    /// All that is set.
    set: BTreeMap<String, String>,
    /// What a user should know beside the plan.
    warnings: Vec<PlanWarning>,
    /// Where the last statement stands.
    end: Place,
}

impl Script<'_> {
    /// Does what a statement says.
    fn statement(&mut self, statement: Statement) -> Result<(), PlanError> {
        match statement {
            Statement::CreateTable(table) => {
                self.end = table.name.place();
                self.create_table(*table)
            }
            Statement::CreateView(view) => {
                self.end = view.name.place();
                self.create_view(view)
            }
            Statement::Set { key, value, place } => {
                self.end = place;
                if let Taken::Idle(why) = self.settings.set(&key, &value, place)? {
                    self.warn(place, why);
                }
                self.set.insert(key, value);
                Ok(())
            }
            Statement::Insert(insert) => {
                let written = self.query_of(insert)?;
                self.written.push(written);
                Ok(())
            }
            Statement::Query(query, place) => {
                self.end = place;
                self.query_alone(*query, place)
            }
            other => self.other(other),
        }
    }

    fn warn(&mut self, place: Place, message: impl std::fmt::Display) {
        let operator = if place.is_known() { format!("line {}", place.line) } else { "the script".to_string() };
        self.warnings.push(PlanWarning { operator, message: message.to_string() });
    }

    /// What is to be declared is called so; none where it is there already and stays.
    fn free(&mut self, name: &Name, if_not_exists: bool, replace: bool) -> Result<Option<String>, PlanError> {
        let path = self.names.new_path(name)?;
        if replace {
            self.names.remove(&path);
        }
        if !self.names.has(&path) {
            return Ok(Some(path));
        }
        if if_not_exists {
            return Ok(None);
        }
        Err(PlanError::new(
            name.place(),
            format!("there is a table or view {path} already"),
            "give this one another name, or write DROP TABLE before it",
        ))
    }

    fn create_table(&mut self, mut create: CreateTable) -> Result<(), PlanError> {
        let Some(path) = self.free(&create.name, create.if_not_exists, create.replace)? else { return Ok(()) };
        create.options = self.last_wins(create.options);
        if let Some(like) = create.like.take() {
            let base = self.declared(&like.table)?;
            create = like.merged(&base, create)?;
        }
        let query = create.query.take();
        let (name, at) = (create.name.clone(), create.name.place());
        let planned = match query {
            None => None,
            Some((mut query, place)) => {
                self.checked(&mut query, place)?;
                let plan = self.query(&query, place)?;
                check_plan(&plan, place)?;
                create = columns_of(create, &plan, place)?;
                Some((plan, place))
            }
        };
        let table = self.table(path, create)?;
        self.names.add_table(table);
        if let Some((plan, place)) = planned {
            let written = self.write_into(plan, &name, &[], (place, at), &[], None)?;
            self.written.push(written);
        }
        Ok(())
    }

    /// The table that a declaration makes.
    fn table(&self, path: String, create: CreateTable) -> Result<Table, PlanError> {
        let place = create.name.place();
        let declared = Arc::new(create.clone());
        let (physical, metadata) = physical_columns(&create)?;
        let input = unqualified(&physical).map_err(|error| PlanError::from_planner(&error, place))?;
        let mut columns = Vec::new();
        let mut fields: Vec<Field> = Vec::new();
        let mut column_places = Vec::new();
        for column in create.columns {
            let at = Place::from(column.name.span);
            let name = column.name.value;
            let (origin, field, time) = match column.kind {
                ColumnKind::Physical { .. } | ColumnKind::Metadata { .. } => {
                    let index = physical.index_of(&name).map_err(|error| PlanError::new(at, error.to_string(), ""))?;
                    (Origin::Physical(index), physical.field(index).clone(), None)
                }
                ColumnKind::Computed(mut expr) => {
                    check_expr(&mut expr, self.names.functions(), at)?;
                    let expr = plan_expr(*expr, &input, &self.names, at)?;
                    let data_type = expr.get_type(&input).map_err(|error| PlanError::from_planner(&error, at))?;
                    let empty = LogicalPlan::default();
                    let time = of_expr(&expr, &empty, &[]).time;
                    (Origin::Computed(expr), Field::new(&name, data_type, true), time)
                }
            };
            columns.push(Column { origin, time });
            fields.push(field);
            column_places.push(at);
        }
        let primary_key = create
            .primary_key
            .iter()
            .map(|key| {
                physical.index_of(&key.value).map_err(|_| {
                    let known = physical.fields().iter().map(|field| field.name().as_str());
                    unknown_column(&key.value, &path, key.span.into(), known)
                })
            })
            .collect::<Result<Vec<usize>, PlanError>>()?;
        for column in &create.partitioned {
            if physical.index_of(&column.value).is_err() {
                let known = physical.fields().iter().map(|field| field.name().as_str());
                return Err(unknown_column(&column.value, &path, column.span.into(), known));
            }
        }
        let mut table = Table {
            name: path,
            serial: 0,
            declared,
            place,
            columns,
            schema: Arc::new(Schema::new(fields)),
            physical,
            metadata,
            watermark: None,
            primary_key,
            options: create.options,
            column_places,
            as_of: None,
        };
        if let Some(watermark) = create.watermark {
            self.watermark(&mut table, watermark)?;
        }
        Ok(table)
    }

    fn watermark(&self, table: &mut Table, watermark: WatermarkDef) -> Result<(), PlanError> {
        let at = watermark.column.first().map_or(watermark.place, |part| part.span.into());
        let names: Vec<&str> = watermark.column.iter().map(|part| part.value.as_str()).collect();
        let [name] = names[..] else {
            return Err(PlanError::new(
                at,
                format!("a watermark on {}, a field of a ROW, is not supported", names.join(".")),
                format!(
                    "add a computed column for it, as `event_time AS {}`, and declare the watermark for that",
                    names.join(".")
                ),
            ));
        };
        let Ok(column) = table.schema.index_of(name) else {
            let known = table.schema.fields().iter().map(|field| field.name().as_str());
            return Err(unknown_column(name, &table.name, at, known));
        };
        let data_type = table.schema.field(column).data_type();
        if !matches!(data_type, DataType::Timestamp(TimeUnit::Millisecond, _)) {
            return Err(no_event_time(name, data_type, at));
        }
        let mut expr = watermark.expr;
        let place = watermark.place;
        if is_source_watermark(&expr) {
            return Err(PlanError::new(
                place,
                "SOURCE_WATERMARK() is not supported: no connector here knows watermarks of its own",
                format!("write WATERMARK FOR {name} AS {name} - INTERVAL '5' SECOND"),
            ));
        }
        check_expr(&mut expr, self.names.functions(), place)?;
        let input = unqualified(&table.schema).map_err(|error| PlanError::from_planner(&error, place))?;
        let expr = plan_expr(*expr, &input, &self.names, place)?;
        let expr_type = expr.get_type(&input).map_err(|error| PlanError::from_planner(&error, place))?;
        if !matches!(expr_type, DataType::Timestamp(..)) {
            return Err(PlanError::new(
                place,
                format!("the watermark is {}, and not a TIMESTAMP", flink_name(&expr_type)),
                format!("write WATERMARK FOR {name} AS {name} - INTERVAL '5' SECOND"),
            ));
        }
        table.columns[column].time = Some(Time::Event);
        table.watermark = Some(Watermark { column, expr });
        Ok(())
    }

    fn create_view(&mut self, create: CreateView) -> Result<(), PlanError> {
        let Some(path) = self.free(&create.name, create.if_not_exists, create.replace)? else { return Ok(()) };
        let place = create.name.place();
        let mut query = *create.query;
        let text = query.to_string();
        self.checked(&mut query, place)?;
        // What is wrong with the view is said where the view is, and not where it is used.
        let mut plan = self.query(&query, place)?;
        check_plan(&plan, place)?;
        if !create.columns.is_empty() {
            let width = plan.schema().fields().len();
            if create.columns.len() != width {
                return Err(PlanError::new(
                    create.columns[0].span,
                    format!("the view names {} columns, and its query has {width}", create.columns.len()),
                    "name each column once",
                ));
            }
            let exprs: Vec<Expr> = plan
                .schema()
                .iter()
                .zip(&create.columns)
                .map(|(field, name)| Expr::Column(ColumnName::from(field)).alias(&name.value))
                .collect();
            let renamed = Projection::try_new(exprs, Arc::new(plan));
            plan = LogicalPlan::Projection(renamed.map_err(|error| PlanError::from_planner(&error, place))?);
        }
        self.names.add_view(path, View::new(plan, text));
        Ok(())
    }

    /// Plans a query and types it.
    fn query(&self, query: &Query, place: Place) -> Result<LogicalPlan, PlanError> {
        let attempt = |query: Query| {
            let plan = plan_query(query, &self.names, Place::default())?;
            versions::check_versions(&plan)?;
            analyze(plan, Place::default())
        };
        attempt(query.clone()).map_err(|error| {
            if error.line.is_some() {
                return error;
            }
            error.or_at(locate(query, &|part| attempt(part).is_err()).unwrap_or(place))
        })
    }

    /// Checks and rewrites a query.
    fn checked(&mut self, query: &mut Query, place: Place) -> Result<(), PlanError> {
        self.obey_hints(query)?;
        self.versions(query)?;
        check_query(query, self.names.functions(), place)
    }

    /// Plans an INSERT as far as it can be alone.
    fn query_of(&mut self, insert: Insert) -> Result<Written, PlanError> {
        self.sink(&insert.table)?;
        let mut query = *insert.query;
        self.checked(&mut query, insert.place)?;
        let place = Place::from(query.span()).or(insert.place);
        let items = item_places(&query);
        let plan = self.query(&query, place)?;
        check_plan(&plan, place)?;
        let places = (place, insert.table.place());
        self.write_into(plan, &insert.table, &insert.columns, places, &items, insert.conflict)
    }

    /// The table that is written.
    fn sink(&self, name: &Name) -> Result<Arc<Table>, PlanError> {
        let (at, path) = (name.place(), self.names.path(&name.texts()));
        if let Some(sink) = self.names.table(&path) {
            return match sink.declared.partitioned.first() {
                None => Ok(Arc::clone(sink)),
                Some(column) => Err(PlanError::new(
                    column.span,
                    format!(
                        "the table {path} is PARTITIONED BY {}, and no connector here writes partitions",
                        column.value
                    ),
                    "leave the clause out; the column stays, and is written with the others",
                )),
            };
        }
        if self.names.is_view(&path) {
            return Err(PlanError::new(at, format!("{path} is a view"), "insert into a table"));
        }
        Err(self.names.unknown_table(&path, at))
    }

    /// The rows of a plan as those of a table. The places are the query's and the table's.
    fn write_into(
        &mut self,
        plan: LogicalPlan,
        table: &Name,
        columns: &[Ident],
        (place, at): (Place, Place),
        items: &[Place],
        conflict: Option<(Conflict, Place)>,
    ) -> Result<Written, PlanError> {
        let sink = self.sink(table)?;
        let sink = self.hinted(table, sink)?.written();
        let target = targets(columns, &sink)?;
        let plan = into_sink(plan, &sink, &target, place, at, items)?;
        let plan = optimize(plan, place)?;
        tracing::debug!(plan = %plan.display_indent(), "optimised");
        Ok(Written { plan, sink, place, at, conflict })
    }

    /// Builds all INSERTs, and lowers them.
    fn lower(mut self) -> Result<Planned, Vec<PlanError>> {
        let (tree, mut details) = self.build()?;
        let needs = Needs::of(&tree);
        tracing::debug!(plan = %Shown(&tree, &needs), "built");
        let Lowered { mut stages, warnings } = lower(&tree, &needs).map_err(|error| vec![error])?;
        details.extend(changelogs(&tree, &needs));
        tell_apart(&mut stages);
        let shares = tree.readers().iter().any(|readers| *readers > 1);
        self.warnings.extend(warnings);
        Ok(Planned { stages, warnings: self.warnings, details, shares })
    }

    /// The nodes of all INSERTs, and what they do not say about how they run.
    fn build(&self) -> Result<(Tree, Vec<String>), Vec<PlanError>> {
        let mut builder = Builder::new(&self.settings, &self.catalog.connectors, self.base_dir);
        for query in &self.written {
            builder.share(&query.plan);
        }
        let (mut details, mut errors) = (Vec::new(), Vec::new());
        for (statement, query) in self.written.iter().enumerate() {
            let Written { plan, sink, place, at, conflict } = query;
            let writes = Writes { statement, sink, place: *place, at: *at, conflict: *conflict };
            match builder.insert(plan, &writes) {
                Ok(written) => {
                    if self.settings.batch && !builder.tree[written].traits.bounded {
                        errors.push(endless(*place));
                        continue;
                    }
                    let lineage = &builder.tree[written].lineage;
                    let columns: Vec<&str> = lineage.columns.iter().map(|meaning| meaning.text.as_str()).collect();
                    details.push(format!("{} {:?} {columns:?}", lineage.rows.text, lineage.filters));
                    self.describe(sink, &builder.read, &mut details);
                }
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let sinks = self.written.iter().map(|query| query.sink.as_ref());
        self.check_apart(&builder.read, &sinks).map_err(|error| vec![error])?;
        Ok((builder.tree, details))
    }

    /// Options and settings are part of how a plan runs.
    fn describe(&self, sink: &Table, read: &BTreeSet<String>, details: &mut Vec<String>) {
        let mut names = read.clone();
        names.insert(sink.name.clone());
        for table in names.iter().flat_map(|name| self.names.ever(name)) {
            let options: Vec<String> =
                table.options.iter().map(|option| format!("{}={}", option.key, option.value)).collect();
            let watermark = table.watermark.as_ref().map_or_else(String::new, |watermark| watermark.expr.to_string());
            details.push(format!("{} {options:?} {watermark}", table.name));
        }
        details.push(self.settings.in_fingerprint());
    }

    /// Refuses a table that is written where another one is read.
    fn check_apart<'t>(
        &self,
        read: &BTreeSet<String>,
        written: &(impl Iterator<Item = &'t Table> + Clone),
    ) -> Result<(), PlanError> {
        for source in read.iter().flat_map(|name| self.names.ever(name)) {
            for sink in written.clone() {
                let (read, written) = (source.spec(self.base_dir), sink.spec(self.base_dir));
                self.catalog.connectors.apart(&read, &written).map_err(|error| sink.refused(&error))?;
            }
        }
        Ok(())
    }
}

/// The columns of a declaration that are read or written, and which of them are metadata.
fn physical_columns(create: &CreateTable) -> Result<(SchemaRef, BTreeMap<usize, Metadata>), PlanError> {
    let mut seen = BTreeSet::new();
    for column in &create.columns {
        if !seen.insert(column.name.value.clone()) {
            return Err(PlanError::new(
                column.name.span,
                format!("the table has two columns {}", column.name.value),
                "give one of them another name",
            ));
        }
    }
    let mut physical: Vec<Field> = Vec::new();
    let mut metadata: BTreeMap<usize, Metadata> = BTreeMap::new();
    for column in &create.columns {
        let (data_type, nullable) = match &column.kind {
            ColumnKind::Computed(_) => continue,
            ColumnKind::Physical { data_type, nullable } => (data_type, nullable),
            ColumnKind::Metadata { data_type, nullable, key, is_virtual } => {
                metadata.insert(physical.len(), Metadata { key: key.clone(), is_virtual: *is_virtual });
                (data_type, nullable)
            }
        };
        let is_key = create.primary_key.iter().any(|key| key.value == column.name.value);
        physical.push(Field::new(&column.name.value, data_type.clone(), *nullable && !is_key));
    }
    if physical.len() == metadata.len() {
        let place = create.name.place();
        return Err(PlanError::new(place, "the table has no column that is read or written", "declare one"));
    }
    Ok((Arc::new(Schema::new(physical)), metadata))
}

/// A planned INSERT.
struct Written {
    plan: LogicalPlan,
    sink: Arc<Table>,
    /// Where the query stands.
    place: Place,
    /// Where the table is named.
    at: Place,
    conflict: Option<(Conflict, Place)>,
}

/// What of the changelogs decides how a plan runs, and is not as it has always been: nodes that send no row before an update.
fn changelogs(tree: &Tree, needs: &Needs) -> impl Iterator<Item = String> {
    let after = tree.live().filter(|(id, node)| node.traits.kinds.update && !needs.before(*id));
    after.map(|(_, node)| format!("{} without rows before updates", node.name))
}

/// Two operators of the same meaning keep two states: the later one gets a number behind its identity, and its place among
/// those. What it was called before is numbered as it was then.
fn tell_apart(stages: &mut [Stage]) {
    let (mut now, mut before) = (Numbers::default(), Numbers::default());
    for stage in stages {
        now.number(&mut stage.identity);
        for alias in &mut stage.aliases {
            before.number(alias);
        }
        for (identity, kin) in keepers(stage) {
            kin.family.clone_from(identity);
            kin.ordinal = now.number(identity);
            for alias in &mut kin.aliases {
                before.number(alias);
            }
            kin.aliases.retain(|alias| alias != identity);
        }
    }
}

/// Identities that have been given.
#[derive(Default)]
struct Numbers(BTreeSet<String>);

impl Numbers {
    /// Gives the identity a number behind it where it has been given before; says how often that was.
    fn number(&mut self, identity: &mut String) -> u32 {
        let original = identity.clone();
        let mut number = 1;
        while !self.0.insert(identity.clone()) {
            number += 1;
            *identity = format!("{original}-{number}");
        }
        number - 1
    }
}

/// All of a stage that has an identity, also what keeps nothing.
fn keepers(stage: &mut Stage) -> impl Iterator<Item = (&mut String, &mut Kin)> {
    let source = match &mut stage.head {
        StageHead::Source(source) => Some((&mut source.identity, &mut source.kin)),
        StageHead::Inputs(_) => None,
    };
    let operators = stage.operators.iter_mut().map(|operator| (&mut operator.identity, &mut operator.kin));
    let sink = stage.sink.as_mut().map(|sink| (&mut sink.identity, &mut sink.kin));
    source.into_iter().chain(operators).chain(sink)
}

fn endless(place: Place) -> PlanError {
    PlanError::new(
        place,
        "the query reads input that never ends, and SET 'execution.runtime-mode' = 'batch' is for input that does",
        "let its tables end, as datagen does with 'number-of-rows', or leave the SET out",
    )
}

/// What is to be done about a column that cannot be event time.
fn no_event_time(name: &str, data_type: &DataType, at: Place) -> PlanError {
    PlanError::new(
        at,
        format!("the column {name} is {}, and event time is TIMESTAMP(3) or TIMESTAMP_LTZ(3)", flink_name(data_type)),
        match data_type {
            DataType::Timestamp(..) => format!("declare {name} TIMESTAMP(3)"),
            DataType::Int64 => {
                format!("add a computed column: t AS TO_TIMESTAMP_LTZ({name}, 3), and declare the watermark for t")
            }
            _ => {
                format!("add a computed column: t AS CAST({name} AS TIMESTAMP(3)), and declare the watermark for t")
            }
        },
    )
}

fn is_source_watermark(expr: &ast::Expr) -> bool {
    matches!(expr, ast::Expr::Function(call) if call.name.to_string().eq_ignore_ascii_case("SOURCE_WATERMARK"))
}

/// The type of a column into which values of this one go unchanged.
fn stored(data_type: &DataType) -> DataType {
    match data_type {
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        other => other.clone(),
    }
}

/// `CREATE TABLE … AS`: a declaration with the query's columns. Those that it names are the first of them, in its order.
fn columns_of(mut create: CreateTable, plan: &LogicalPlan, place: Place) -> Result<CreateTable, PlanError> {
    let fields = plan.schema().fields();
    for column in &create.columns {
        if !fields.iter().any(|field| *field.name() == column.name.value) {
            return Err(PlanError::new(
                column.name.span,
                format!("the query gives no column {}", column.name.value),
                "declare only columns that the query gives; the others come of themselves",
            ));
        }
    }
    let mut columns = Vec::with_capacity(fields.len());
    for field in fields {
        let declared = create.columns.iter().find(|column| column.name.value == *field.name());
        columns.push(match declared {
            Some(column) => column.clone(),
            None => ColumnDef {
                name: Ident { span: create.name.parts[0].span, ..Ident::with_quote('`', field.name()) },
                kind: ColumnKind::Physical { data_type: stored(field.data_type()), nullable: field.is_nullable() },
            },
        });
    }
    if columns.is_empty() {
        return Err(PlanError::new(place, "the query gives no column", "select one"));
    }
    create.columns = columns;
    Ok(create)
}

/// Where each item of the SELECT list stands.
fn item_places(query: &Query) -> Vec<Place> {
    let SetExpr::Select(select) = query.body.as_ref() else { return Vec::new() };
    let has_wildcard = select
        .projection
        .iter()
        .any(|item| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)));
    if has_wildcard { Vec::new() } else { select.projection.iter().map(|item| item.span().into()).collect() }
}

/// The sink's columns that are written, in the order of the query's.
fn targets(columns: &[Ident], sink: &Table) -> Result<Vec<usize>, PlanError> {
    if columns.is_empty() {
        return Ok((0..sink.physical.fields().len()).collect());
    }
    let mut targets = Vec::with_capacity(columns.len());
    for column in columns {
        let known = sink.physical.fields().iter().map(|field| field.name().as_str());
        let index = sink
            .physical
            .index_of(&column.value)
            .map_err(|_| unknown_column(&column.value, &sink.name, column.span.into(), known))?;
        if targets.contains(&index) {
            return Err(PlanError::new(
                column.span,
                format!("the column {} is named twice", column.value),
                "name it once",
            ));
        }
        targets.push(index);
    }
    for (index, field) in sink.physical.fields().iter().enumerate() {
        if !field.is_nullable() && !targets.contains(&index) {
            return Err(PlanError::new(
                columns[0].span,
                format!("the column {} of {} is NOT NULL and gets no value", field.name(), sink.name),
                "name it, and select a value for it",
            ));
        }
    }
    Ok(targets)
}

/// The query's columns as the sink's: counted, cast where that needs no CAST, named.
fn into_sink(
    plan: LogicalPlan,
    sink: &Table,
    targets: &[usize],
    place: Place,
    table: Place,
    items: &[Place],
) -> Result<LogicalPlan, PlanError> {
    let given = plan.schema().fields().len();
    let fields = sink.physical.fields();
    if given != targets.len() {
        let names: Vec<&str> = targets.iter().map(|&target| fields[target].name().as_str()).collect();
        return Err(PlanError::new(
            table,
            format!("the query gives {given} columns, and {} takes {}", sink.name, targets.len()),
            format!("select one value for each of {}", names.join(", ")),
        ));
    }
    let schema = Arc::clone(plan.schema());
    let mut exprs = Vec::with_capacity(fields.len());
    for (index, field) in fields.iter().enumerate() {
        let Some(position) = targets.iter().position(|&target| target == index) else {
            let null =
                ScalarValue::try_new_null(field.data_type()).map_err(|error| PlanError::from_planner(&error, place))?;
            exprs.push(Expr::Literal(null, None).alias(field.name()));
            continue;
        };
        let from = schema.field(position).data_type();
        if !casts_implicitly(from, field.data_type()) {
            let at = items.get(position).copied().filter(|at| at.is_known()).unwrap_or(place);
            let to = flink_name(field.data_type());
            return Err(PlanError::new(
                at,
                format!(
                    "column {} of {} is {to}, and the query gives {} ({})",
                    field.name(),
                    sink.name,
                    schema.field(position).name(),
                    flink_name(from)
                ),
                format!("write CAST(… AS {to}), or declare the column {}", flink_name(from)),
            ));
        }
        let column = Expr::Column(ColumnName::from(schema.qualified_field(position)));
        let cast =
            cast_to(column, field.data_type(), &schema).map_err(|error| PlanError::from_planner(&error, place))?;
        exprs.push(cast.alias(field.name()));
    }
    Projection::try_new(exprs, Arc::new(plan))
        .map(LogicalPlan::Projection)
        .map_err(|error| PlanError::from_planner(&error, place))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nodes of a script over the connectors of this build, a line each.
    fn nodes(script: &str) -> Vec<String> {
        let request = PlanRequest { script: script.to_string(), base_dir: ".".to_string(), max_parallelism: 128 };
        let catalog = Catalog::default();
        let script = read_script(&request, &catalog).unwrap();
        let (tree, _) = script.build().unwrap();
        Shown(&tree, &Needs::of(&tree)).to_string().lines().map(str::to_string).collect()
    }

    #[track_caller]
    fn line<'l>(nodes: &'l [String], name: &str) -> &'l str {
        nodes.iter().find(|line| line.contains(name)).unwrap_or_else(|| panic!("no {name} in {nodes:#?}"))
    }

    #[test]
    fn what_is_known_of_rows_goes_up_from_node_to_node() {
        let nodes = nodes(
            "CREATE TABLE bid (auction BIGINT, price BIGINT, t TIMESTAMP(3), WATERMARK FOR t AS t - INTERVAL '5' SECOND)
                 WITH ('connector' = 'datagen');
             CREATE TABLE out (s TIMESTAMP(3), a BIGINT, n BIGINT) WITH ('connector' = 'print');
             INSERT INTO out SELECT window_start, auction, COUNT(*)
             FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(t), INTERVAL '1' MINUTE)) GROUP BY auction, window_start, window_end",
        );
        let cases: [(&str, &[&str]); 4] = [
            ("0 bid", &["+I", "event time t"]),
            ("LocalAggregate", &["<- ["]),
            (
                "WindowAggregate(by",
                &[
                    "key (auction, window_end)",
                    "window_start > watermark - 60000",
                    "window_end > watermark - 0",
                    "event time window_time",
                    "by (auction)",
                ],
            ),
            (" out <- ", &["s > watermark - 60000", "by (a)", "+I, needed None"]),
        ];
        for (name, all) in cases {
            let line = line(&nodes, name);
            for known in all {
                assert!(line.contains(known), "{known} is not in {line}");
            }
            assert!(!line.ends_with(", ends"), "{line}");
        }
    }

    /// Two tables over topics, the first with what Kafka says of a record among its columns.
    const TOPICS: &str =
        "CREATE TABLE read (a BIGINT, at TIMESTAMP_LTZ(3) METADATA FROM 'timestamp', `partition` INT METADATA VIRTUAL, b STRING,
             late AS at, WATERMARK FOR at AS at - INTERVAL '1' SECOND)
             WITH ('connector' = 'kafka', 'topic' = 'i', 'properties.bootstrap.servers' = 'a:1', 'scan.startup.mode' = 'earliest-offset', 'format' = 'json');
         CREATE TABLE written (a BIGINT, p INT METADATA FROM 'partition' VIRTUAL, at TIMESTAMP_LTZ(3) METADATA FROM 'timestamp', b STRING)
             WITH ('connector' = 'kafka', 'topic' = 'o', 'properties.bootstrap.servers' = 'a:1', 'format' = 'json');";

    #[test]
    fn metadata_stands_among_the_columns_and_what_is_virtual_is_not_written() {
        let nodes = nodes(&format!("{TOPICS} INSERT INTO written SELECT `partition`, at, b FROM read"));
        assert!(line(&nodes, "0 read").contains("event time at"), "{nodes:#?}");
        let refused = |statement: &str| {
            let script = format!("{TOPICS} {statement}");
            let request = PlanRequest { script, base_dir: ".".to_string(), max_parallelism: 128 };
            plan_script(&request, &Catalog::default(), Sharing::AsSet).map(drop).unwrap_err()
        };
        let four = refused("INSERT INTO written SELECT a, `partition`, at, b FROM read");
        assert_eq!(four.message, "the query gives 4 columns, and written takes 3");
        assert!(four.remedy.contains("a, at, b"), "{}", four.remedy);
        let named = refused("INSERT INTO written (a, p) SELECT a, `partition` FROM read");
        assert!(named.message.contains('p'), "{}", named.message);
        let unknown = refused(
            "CREATE TABLE x (a BIGINT, h STRING METADATA FROM 'ofset' VIRTUAL) WITH ('connector' = 'kafka', 'topic' = 'i',
             'properties.bootstrap.servers' = 'a:1', 'scan.startup.mode' = 'earliest-offset', 'format' = 'json'); INSERT INTO written (a) SELECT a FROM x",
        );
        assert!(unknown.message.contains("no metadata 'ofset'") && unknown.remedy.contains("'offset'"), "{unknown:?}");
    }

    #[test]
    fn an_input_that_ends_and_rows_in_one_place_are_known_further_up() {
        let nodes = nodes(
            "CREATE TABLE bid (auction BIGINT, price BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '5');
             CREATE TABLE out (n BIGINT) WITH ('connector' = 'print');
             INSERT INTO out SELECT COUNT(*) FROM bid",
        );
        let line = line(&nodes, " out <- ");
        assert!(line.contains("+I -U +U, needed None, key (), in one place"), "{line}");
        assert!(line.ends_with(", ends"), "{line}");
    }
}
