//! Statement after statement: tables and views into the catalog, all INSERTs into one plan.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion_common::{Column as ColumnName, ScalarValue};
use datafusion_expr::{Expr, ExprSchemable, LogicalPlan, Projection};
use datafusion_sql::sqlparser::ast::{Ident, Query, SelectItem, SetExpr, Spanned};
use weir_connectors::Metadata;
use weir_engine::{Kin, PlanWarning, Stage, StageHead};
use weir_protocol::settings::PlanRequest;

use crate::error::{Place, PlanError, suggest};
use crate::logical::columns::{Time, of_expr};
use crate::logical::exprs::{cast_to, plan_expr, plan_query, unqualified};
use crate::logical::optimize::{analyze, optimize};
use crate::logical::size::check_plan;
use crate::lower::{Lowered, lower};
use crate::names::catalog::{Catalog, Column, Names, Origin, Table, View, Watermark};
use crate::parse::bounds::check_script;
use crate::parse::check::{check_expr, check_query, unknown_column};
use crate::parse::dialect::{ColumnKind, Conflict, CreateTable, CreateView, Insert, Statement, parse_script};
use crate::parse::locate::locate;
use crate::parse::types::{casts_implicitly, flink_name};
use crate::physical::build::Builder;
use crate::physical::build::sink::Writes;
use crate::physical::changelog::Needs;
use crate::physical::show::Shown;
use crate::physical::tree::Tree;
use crate::settings::Settings;

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
    let (mut script, inserts) = read_script(request, catalog)?;
    if sharing == Sharing::Never {
        script.settings = script.settings.unshared();
    }
    script.lower(inserts)
}

/// Reads all that a script declares and sets, and its INSERTs.
fn read_script<'a>(request: &'a PlanRequest, catalog: &'a Catalog) -> Result<(Script<'a>, Vec<Insert>), PlanError> {
    check_script(&request.script)?;
    let mut script = Script {
        catalog,
        base_dir: Path::new(&request.base_dir),
        names: Names::new(catalog.functions.clone()),
        settings: Settings::default(),
    };
    let mut inserts = Vec::new();
    let mut end = Place { line: 1, column: 1 };
    for statement in parse_script(&request.script)? {
        match statement {
            Statement::CreateTable(table) => {
                end = table.name.span.into();
                script.create_table(table)?;
            }
            Statement::CreateView(view) => {
                end = view.name.span.into();
                script.create_view(view)?;
            }
            Statement::Set { key, value, place } => {
                end = place;
                script.settings.set(&key, &value, place)?;
            }
            Statement::Insert(insert) => inserts.push(insert),
        }
    }
    if inserts.is_empty() {
        return Err(PlanError::new(end, "the script inserts nothing", "add INSERT INTO <table> SELECT … FROM …"));
    }
    Ok((script, inserts))
}

struct Script<'a> {
    catalog: &'a Catalog,
    base_dir: &'a Path,
    names: Names,
    settings: Settings,
}

impl Script<'_> {
    /// Refuses a name that is taken; says whether to go on.
    fn is_free(&self, name: &Ident, if_not_exists: bool) -> Result<bool, PlanError> {
        if !self.names.has(&name.value) {
            return Ok(true);
        }
        if if_not_exists {
            return Ok(false);
        }
        Err(PlanError::new(
            name.span,
            format!("there is a table or view {} already", name.value),
            "give this one another name",
        ))
    }

    fn create_table(&mut self, create: CreateTable) -> Result<(), PlanError> {
        if !self.is_free(&create.name, create.if_not_exists)? {
            return Ok(());
        }
        let table = self.table(create)?;
        self.names.add_table(table);
        Ok(())
    }

    fn table(&self, create: CreateTable) -> Result<Table, PlanError> {
        let place = Place::from(create.name.span);
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
            return Err(PlanError::new(place, "the table has no column that is read or written", "declare one"));
        }
        let physical: SchemaRef = Arc::new(Schema::new(physical));
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
                    unknown_column(&key.value, &create.name.value, key.span.into(), known)
                })
            })
            .collect::<Result<Vec<usize>, PlanError>>()?;
        let mut table = Table {
            name: create.name.value,
            place,
            columns,
            schema: Arc::new(Schema::new(fields)),
            physical,
            metadata,
            watermark: None,
            primary_key,
            options: create.options,
            column_places,
        };
        if let Some(watermark) = create.watermark {
            self.watermark(&mut table, watermark)?;
        }
        Ok(table)
    }

    fn watermark(&self, table: &mut Table, watermark: crate::parse::dialect::WatermarkDef) -> Result<(), PlanError> {
        let at = Place::from(watermark.column.span);
        let name = &watermark.column.value;
        let Ok(column) = table.schema.index_of(name) else {
            let known = table.schema.fields().iter().map(|field| field.name().as_str());
            return Err(unknown_column(name, &table.name, at, known));
        };
        let data_type = table.schema.field(column).data_type();
        if !matches!(data_type, DataType::Timestamp(TimeUnit::Millisecond, _)) {
            return Err(PlanError::new(
                at,
                format!(
                    "the column {name} is {}, and event time is TIMESTAMP(3) or TIMESTAMP_LTZ(3)",
                    flink_name(data_type)
                ),
                match data_type {
                    DataType::Timestamp(..) => format!("declare {name} TIMESTAMP(3)"),
                    DataType::Int64 => format!(
                        "add a computed column: t AS TO_TIMESTAMP_LTZ({name}, 3), and declare the watermark for t"
                    ),
                    _ => format!(
                        "add a computed column: t AS CAST({name} AS TIMESTAMP(3)), and declare the watermark for t"
                    ),
                },
            ));
        }
        let mut expr = watermark.expr;
        let place = watermark.place;
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
        if !self.is_free(&create.name, create.if_not_exists)? {
            return Ok(());
        }
        let place = Place::from(create.name.span);
        let mut query = *create.query;
        check_query(&mut query, self.names.functions(), place)?;
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
        self.names.add_view(create.name.value, View::new(plan));
        Ok(())
    }

    /// Plans a query and types it.
    fn query(&self, query: &Query, place: Place) -> Result<LogicalPlan, PlanError> {
        let attempt = |query: Query| {
            plan_query(query, &self.names, Place::default()).and_then(|plan| analyze(plan, Place::default()))
        };
        attempt(query.clone()).map_err(|error| {
            if error.line.is_some() {
                return error;
            }
            error.or_at(locate(query, &|part| attempt(part).is_err()).unwrap_or(place))
        })
    }

    /// Plans an INSERT as far as it can be alone.
    fn query_of(&self, insert: Insert) -> Result<Written, PlanError> {
        let at = Place::from(insert.table.span);
        let name = &insert.table.value;
        let Some(sink) = self.names.table(name).map(Arc::clone) else {
            if self.names.is_view(name) {
                return Err(PlanError::new(at, format!("{name} is a view"), "insert into a table"));
            }
            let remedy = suggest(name, "tables", self.names.table_names());
            return Err(PlanError::new(at, format!("there is no table {name}"), remedy));
        };
        let sink = sink.written();
        let mut query = *insert.query;
        check_query(&mut query, self.names.functions(), insert.place)?;
        let place = Place::from(query.span()).or(insert.place);
        let items = item_places(&query);
        let plan = self.query(&query, place)?;
        check_plan(&plan, place)?;
        let target = targets(&insert.columns, &sink)?;
        let plan = into_sink(plan, &sink, &target, place, at, &items)?;
        let plan = optimize(plan, place)?;
        tracing::debug!(plan = %plan.display_indent(), "optimised");
        Ok(Written { plan, sink, place, at, conflict: insert.conflict })
    }

    /// Builds all INSERTs, and lowers them.
    fn lower(self, inserts: Vec<Insert>) -> Result<Planned, PlanError> {
        let (tree, mut details) = self.build(inserts)?;
        let needs = Needs::of(&tree);
        tracing::debug!(plan = %Shown(&tree, &needs), "built");
        let Lowered { mut stages, warnings } = lower(&tree, &needs)?;
        details.extend(changelogs(&tree, &needs));
        tell_apart(&mut stages);
        let shares = tree.readers().iter().any(|readers| *readers > 1);
        Ok(Planned { stages, warnings, details, shares })
    }

    /// The nodes of all INSERTs, and what they do not say about how they run.
    fn build(&self, inserts: Vec<Insert>) -> Result<(Tree, Vec<String>), PlanError> {
        let queries = inserts.into_iter().map(|insert| self.query_of(insert)).collect::<Result<Vec<_>, PlanError>>()?;
        let mut builder = Builder::new(&self.settings, &self.catalog.connectors, self.base_dir);
        for query in &queries {
            builder.share(&query.plan);
        }
        let mut details = Vec::new();
        for (statement, query) in queries.iter().enumerate() {
            let Written { plan, sink, place, at, conflict } = query;
            let writes = Writes { statement, sink, place: *place, at: *at, conflict: *conflict };
            let written = builder.insert(plan, &writes)?;
            let lineage = &builder.tree[written].lineage;
            let columns: Vec<&str> = lineage.columns.iter().map(|meaning| meaning.text.as_str()).collect();
            details.push(format!("{} {:?} {columns:?}", lineage.rows.text, lineage.filters));
            self.describe(sink, &builder.read, &mut details);
        }
        self.check_apart(&builder.read, &queries.iter().map(|query| query.sink.as_ref()))?;
        Ok((builder.tree, details))
    }

    /// Options and settings are part of how a plan runs.
    fn describe(&self, sink: &Table, read: &BTreeSet<String>, details: &mut Vec<String>) {
        let tables = self.names.table_names().filter_map(|name| self.names.table(name));
        for table in tables.filter(|table| table.name == sink.name || read.contains(&table.name)) {
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
        for source in read.iter().filter_map(|name| self.names.table(name)) {
            for sink in written.clone() {
                let (read, written) = (source.spec(self.base_dir), sink.spec(self.base_dir));
                self.catalog.connectors.apart(&read, &written).map_err(|error| sink.refused(&error))?;
            }
        }
        Ok(())
    }
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
        let (script, inserts) = read_script(&request, &catalog).unwrap();
        let (tree, _) = script.build(inserts).unwrap();
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
