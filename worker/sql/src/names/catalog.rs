//! The tables, views and functions that a script can name, as DataFusion's planner asks for them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Fields, Schema, SchemaRef};
use datafusion_common::config::ConfigOptions;
use datafusion_common::{DataFusionError, Result, TableReference, plan_err};
use datafusion_expr::planner::{ContextProvider, ExprPlanner, PlannerResult, RelationPlanner, TypePlanner};
use datafusion_expr::{AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, TableType, WindowUDF};
use weir_connectors::{ConnectorRegistry, Metadata, TableSpec};

use crate::error::{Place, PlanError, suggest};
use crate::logical::columns::Time;
use crate::logical::tvf::FlinkRelations;
use crate::names::functions::Functions;
use crate::parse::dialect::{CreateTable, OptionDef};
use crate::parse::statements::Name;
use crate::parse::types::FlinkTypes;

/// What scripts of one worker binary can use: connectors, and functions beyond those of this crate.
#[derive(Clone)]
pub struct Catalog {
    /// By the name in `'connector' = '…'`.
    pub connectors: ConnectorRegistry,
    /// By name.
    pub functions: Functions,
}

impl Default for Catalog {
    fn default() -> Self {
        Self::new(ConnectorRegistry::with_builtin())
    }
}

impl Catalog {
    /// These connectors, and the functions of this crate.
    pub fn new(connectors: ConnectorRegistry) -> Self {
        Self { connectors, functions: Functions::builtin() }
    }

    /// Adds a user's own function.
    pub fn add_function(&mut self, function: ScalarUDF) {
        self.functions.add(Arc::new(function));
    }
}

/// Where a column's values come from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// The connector's column of this index.
    Physical(usize),
    /// This expression over the physical columns.
    Computed(Expr),
}

/// One column of a table.
#[derive(Clone, Debug)]
pub struct Column {
    /// Where its values come from.
    pub origin: Origin,
    /// A time attribute.
    pub time: Option<Time>,
}

/// `WATERMARK FOR`.
#[derive(Clone, Debug)]
pub struct Watermark {
    /// The event-time column.
    pub column: usize,
    /// Over the table's columns.
    pub expr: Expr,
}

/// A declared table.
#[derive(Clone, Debug)]
pub struct Table {
    /// What it is called: by its name alone in the default database, by all parts elsewhere.
    pub name: String,
    /// Tells tables apart that have had one name after another, or are read with other options.
    pub serial: usize,
    /// As it was written, or would be.
    pub declared: Arc<CreateTable>,
    /// Where its declaration starts.
    pub place: Place,
    /// In the order of `schema`.
    pub columns: Vec<Column>,
    /// All columns.
    pub schema: SchemaRef,
    /// The connector's columns, also those of metadata, in the order of their declaration.
    pub physical: SchemaRef,
    /// Which of these are metadata.
    pub metadata: BTreeMap<usize, Metadata>,
    /// Event time.
    pub watermark: Option<Watermark>,
    /// Indexes of physical columns.
    pub primary_key: Vec<usize>,
    /// `WITH (…)`.
    pub options: Vec<OptionDef>,
    /// Where each column's name stands.
    pub column_places: Vec<Place>,
    /// It is looked at as it is at this time.
    pub as_of: Option<AsOf>,
}

/// `FOR SYSTEM_TIME AS OF a.p`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AsOf {
    /// Where the column stands.
    pub place: Place,
    /// Its name, with that of its relation before it if that was written.
    pub column: Vec<String>,
}

impl Table {
    /// What time a column measures.
    pub fn time_of(&self, column: usize) -> Option<Time> {
        self.columns[column].time
    }

    /// The primary key, as indexes of all columns.
    pub fn primary_key_columns(&self) -> Vec<usize> {
        let is = |key: usize| move |column: &Column| matches!(column.origin, Origin::Physical(index) if index == key);
        self.primary_key.iter().filter_map(|&key| self.columns.iter().position(is(key))).collect()
    }

    /// As connectors see it, before any pushdown.
    pub fn spec(&self, base_dir: &Path) -> TableSpec {
        let mut spec = TableSpec::new(self.name.clone(), Arc::clone(&self.physical));
        spec.options = self.options.iter().map(|option| (option.key.clone(), option.value.clone())).collect();
        spec.base_dir = base_dir.to_path_buf();
        spec.primary_key.clone_from(&self.primary_key);
        spec.metadata.clone_from(&self.metadata);
        spec
    }

    /// The table as it is written: without the columns that are only read.
    pub fn written(self: &Arc<Self>) -> Arc<Self> {
        let is_written = |index: &usize| self.metadata.get(index).is_none_or(|metadata| !metadata.is_virtual);
        let kept: Vec<usize> = (0..self.physical.fields().len()).filter(is_written).collect();
        if kept.len() == self.physical.fields().len() {
            return Arc::clone(self);
        }
        let place = |index: &usize| kept.iter().position(|kept| kept == index);
        let fields: Vec<_> = kept.iter().map(|&index| Arc::clone(&self.physical.fields()[index])).collect();
        let metadata = self.metadata.iter().filter_map(|(index, metadata)| Some((place(index)?, metadata.clone())));
        Arc::new(Self {
            physical: Arc::new(Schema::new(fields)),
            metadata: metadata.collect(),
            primary_key: self.primary_key.iter().filter_map(place).collect(),
            ..(**self).clone()
        })
    }

    /// A connector's refusal, at the option or column that it names.
    pub fn refused(&self, error: &weir_connectors::ConnectorError) -> PlanError {
        let option = error
            .option()
            .and_then(|key| self.options.iter().find(|option| option.key == key))
            .map(|option| option.place);
        let column = error
            .column()
            .and_then(|name| self.schema.fields().iter().position(|field| field.name() == name))
            .map(|index| self.column_places[index]);
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        PlanError::new(option.or(column).unwrap_or(self.place), message, error.remedy())
    }
}

impl TableSource for Table {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// A view: its query, planned.
#[derive(Debug)]
pub struct View {
    plan: LogicalPlan,
    schema: SchemaRef,
    text: String,
}

impl View {
    /// A view of this plan, which was written so.
    pub fn new(plan: LogicalPlan, text: String) -> Self {
        let schema = Arc::new(plan.schema().as_arrow().clone());
        Self { plan, schema, text }
    }

    /// Its columns.
    pub fn fields(&self) -> &Fields {
        self.schema.fields()
    }

    /// Its query.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl TableSource for View {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        Some(Cow::Borrowed(&self.plan))
    }
}

/// The catalog that a script starts in.
pub const DEFAULT_CATALOG: &str = "default_catalog";

/// The database of a catalog that is used first.
pub const DEFAULT_DATABASE: &str = "default_database";

/// The databases of a catalog.
#[derive(Debug)]
pub struct Databases {
    /// The one that `USE CATALOG` goes to.
    pub default: String,
    /// All of them.
    pub names: BTreeSet<String>,
}

impl Databases {
    /// A catalog with this one.
    pub fn with(default: &str) -> Self {
        Self { default: default.to_string(), names: BTreeSet::from([default.to_string()]) }
    }
}

/// What a script has declared so far.
pub struct Names {
    functions: Functions,
    tables: BTreeMap<String, Arc<Table>>,
    views: BTreeMap<String, Arc<View>>,
    /// Also those that are gone: a statement before may use them.
    all: Vec<Arc<Table>>,
    /// What could not be declared, which has been told.
    broken: BTreeSet<String>,
    catalogs: BTreeMap<String, Databases>,
    /// In use.
    catalog: String,
    /// In use.
    database: String,
    options: ConfigOptions,
    expr_planners: Vec<Arc<dyn ExprPlanner>>,
    relation_planners: Vec<Arc<dyn RelationPlanner>>,
}

impl Names {
    /// No tables and views yet.
    pub fn new(functions: Functions) -> Self {
        Self {
            functions,
            tables: BTreeMap::new(),
            views: BTreeMap::new(),
            all: Vec::new(),
            broken: BTreeSet::new(),
            catalogs: BTreeMap::from([(DEFAULT_CATALOG.to_string(), Databases::with(DEFAULT_DATABASE))]),
            catalog: DEFAULT_CATALOG.to_string(),
            database: DEFAULT_DATABASE.to_string(),
            options: planner_options(),
            expr_planners: vec![
                Arc::new(FlinkExprs),
                Arc::new(datafusion_functions::core::planner::CoreFunctionPlanner::default()),
                Arc::new(datafusion_functions::unicode::planner::UnicodeFunctionPlanner),
                Arc::new(datafusion_functions_aggregate::planner::AggregateFunctionPlanner),
                Arc::new(datafusion_functions_window::planner::WindowFunctionPlanner),
            ],
            relation_planners: vec![Arc::new(FlinkRelations)],
        }
    }

    /// The functions that there are.
    pub fn functions(&self) -> &Functions {
        &self.functions
    }

    /// What something of this name is called: by its last part alone in the default database, by all three elsewhere.
    pub fn path(&self, parts: &[&str]) -> String {
        let (catalog, database, name) = match *parts {
            [catalog, database, name] => (catalog, database, name),
            [database, name] => (self.catalog.as_str(), database, name),
            [name] => (self.catalog.as_str(), self.database.as_str(), name),
            _ => return parts.join("."),
        };
        if (catalog, database) == (DEFAULT_CATALOG, DEFAULT_DATABASE) {
            name.to_string()
        } else {
            format!("{catalog}.{database}.{name}")
        }
    }

    /// The same for a name that is to be declared: its database must be there.
    pub fn new_path(&self, name: &Name) -> Result<String, PlanError> {
        let texts = name.texts();
        if let [catalog, database, _] = texts[..] {
            self.database_at(&[catalog, database], name.place())?;
        } else if let [database, _] = texts[..] {
            self.database_at(&[database], name.place())?;
        }
        Ok(self.path(&texts))
    }

    /// A database by one or two parts, which must be there: its catalog and its name.
    pub fn database_at(&self, parts: &[&str], place: Place) -> Result<(String, String), PlanError> {
        let (catalog, database) = match *parts {
            [catalog, database] => (catalog, database),
            [database] => (self.catalog.as_str(), database),
            _ => {
                let what = format!("{} is no name of a database", parts.join("."));
                return Err(PlanError::new(place, what, "write database or catalog.database"));
            }
        };
        let databases = self.databases(catalog, place)?;
        if !databases.names.contains(database) {
            let remedy = suggest(database, "databases", databases.names.iter().map(String::as_str));
            return Err(PlanError::new(place, format!("there is no database {database} in {catalog}"), remedy));
        }
        Ok((catalog.to_string(), database.to_string()))
    }

    /// The databases of a catalog, which must be there.
    pub fn databases(&self, catalog: &str, place: Place) -> Result<&Databases, PlanError> {
        self.catalogs.get(catalog).ok_or_else(|| {
            let remedy = suggest(catalog, "catalogs", self.catalogs.keys().map(String::as_str));
            PlanError::new(place, format!("there is no catalog {catalog}"), remedy)
        })
    }

    /// All catalogs.
    pub fn catalogs(&mut self) -> &mut BTreeMap<String, Databases> {
        &mut self.catalogs
    }

    /// The names of all catalogs.
    pub fn catalog_names(&self) -> impl Iterator<Item = &str> + Clone {
        self.catalogs.keys().map(String::as_str)
    }

    /// The catalog and the database in use.
    pub fn in_use(&self) -> (&str, &str) {
        (&self.catalog, &self.database)
    }

    /// Uses a database.
    pub fn use_database(&mut self, catalog: String, database: String) {
        (self.catalog, self.database) = (catalog, database);
    }

    /// Whether a table or view is called so.
    pub fn has(&self, name: &str) -> bool {
        self.tables.contains_key(name) || self.views.contains_key(name)
    }

    /// The table that is called so.
    pub fn table(&self, name: &str) -> Option<&Arc<Table>> {
        self.tables.get(name)
    }

    /// All tables that have been called so, also those that are gone, and those with other options.
    pub fn ever<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s Arc<Table>> {
        self.all.iter().filter(move |table| table.name == name)
    }

    /// The view that is called so.
    pub fn view(&self, name: &str) -> Option<&Arc<View>> {
        self.views.get(name)
    }

    /// Whether a view is called so.
    pub fn is_view(&self, name: &str) -> bool {
        self.views.contains_key(name)
    }

    /// Adds a table, or puts it in the place of one that is called the same.
    pub fn add_table(&mut self, table: Table) {
        let name = table.name.clone();
        self.add_table_as(name, table);
    }

    /// Adds a table that queries find by another name than its own.
    pub fn add_table_as(&mut self, name: String, mut table: Table) {
        table.serial = self.all.len();
        let table = Arc::new(table);
        self.all.push(Arc::clone(&table));
        self.views.remove(&name);
        self.broken.remove(&name);
        self.tables.insert(name, table);
    }

    /// Adds a view, or puts it in the place of what is called the same.
    pub fn add_view(&mut self, name: String, view: View) {
        self.tables.remove(&name);
        self.broken.remove(&name);
        self.views.insert(name, Arc::new(view));
    }

    /// Takes a table or view away.
    pub fn remove(&mut self, name: &str) -> Option<Arc<Table>> {
        self.views.remove(name);
        self.tables.remove(name)
    }

    /// Takes all tables and views away whose names begin so; says whether there were any.
    pub fn remove_below(&mut self, prefix: &str) -> bool {
        let before = self.tables.len() + self.views.len();
        self.tables.retain(|name, _| !name.starts_with(prefix));
        self.views.retain(|name, _| !name.starts_with(prefix));
        before != self.tables.len() + self.views.len()
    }

    /// Notes what could not be declared.
    pub fn add_broken(&mut self, name: String) {
        self.broken.insert(name);
    }

    /// Whether an error only follows from one before: something is missing that could not be declared.
    pub fn follows(&self, error: &PlanError) -> bool {
        self.broken.iter().any(|name| error.message == no_table(name))
    }

    /// What all tables are called.
    pub fn table_names(&self) -> impl Iterator<Item = &str> + Clone {
        self.tables.keys().map(String::as_str).filter(|name| !name.contains(HINTED) && !name.starts_with('$'))
    }

    /// What all views are called.
    pub fn view_names(&self) -> impl Iterator<Item = &str> + Clone {
        self.views.keys().map(String::as_str)
    }

    /// The error for a name that no table has.
    pub fn unknown_table(&self, name: &str, place: Place) -> PlanError {
        let remedy = suggest(name, "tables", self.table_names().chain(self.view_names()));
        PlanError::new(place, no_table(name), remedy)
    }
}

/// Stands in the names of tables that are read with other options, or as they are at a time.
pub const HINTED: &str = " /*+";

fn no_table(name: &str) -> String {
    format!("there is no table {name}")
}

/// What the planner and optimizer of DataFusion are told.
pub fn planner_options() -> ConfigOptions {
    let mut options = ConfigOptions::default();
    options.execution.time_zone = Some("UTC".to_string());
    // A value of a query that changes is a join.
    options.optimizer.enable_physical_uncorrelated_scalar_subquery = false;
    options
}

impl ContextProvider for Names {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        let path = match &name {
            TableReference::Bare { table } if table.contains(HINTED) => table.to_string(),
            TableReference::Bare { table } => self.path(&[table]),
            TableReference::Partial { schema, table } => self.path(&[schema, table]),
            TableReference::Full { catalog, schema, table } => self.path(&[catalog, schema, table]),
        };
        if let Some(table) = self.tables.get(&path) {
            return Ok(Arc::clone(table) as Arc<dyn TableSource>);
        }
        if let Some(view) = self.views.get(&path) {
            return Ok(Arc::clone(view) as Arc<dyn TableSource>);
        }
        Err(self.unknown_table(&path, Place::default()).into_planner())
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.expr_planners
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        &self.relation_planners
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(FlinkTypes))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.functions.scalar(name)
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.functions.aggregate.get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.functions.window.get(name).cloned()
    }

    fn get_variable_type(&self, _variable_names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        self.functions.scalar.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.functions.aggregate.keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.functions.window.keys().cloned().collect()
    }
}

/// Syntax that becomes one of our functions.
#[derive(Debug)]
struct FlinkExprs;

impl ExprPlanner for FlinkExprs {
    /// `EXTRACT(unit FROM time)`.
    fn plan_extract(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        let [Expr::Literal(unit, _), time] = args.as_slice() else { return Ok(PlannerResult::Original(args)) };
        let unit = unit.try_as_str().flatten().unwrap_or_default().to_string();
        let name = match unit.to_ascii_uppercase().as_str() {
            "DAY" => "dayofmonth".to_string(),
            "DOY" => "dayofyear".to_string(),
            "DOW" => "dayofweek".to_string(),
            other => other.to_ascii_lowercase(),
        };
        let is_field = crate::names::functions::time::Unit::named(&unit).is_some();
        let only_here = format!("$extract_{name}");
        let mut functions = crate::names::functions::time::functions().into_iter();
        let function = functions.find(|function| function.name() == name || function.name() == only_here);
        match function.filter(|_| is_field) {
            Some(function) => Ok(PlannerResult::Planned(function.call(vec![time.clone()]))),
            None => plan_err!("EXTRACT has no unit {unit}"),
        }
    }

    /// `SUBSTRING(text FROM start FOR length)`.
    fn plan_substring(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        match crate::names::functions::Functions::builtin().scalar("substring") {
            Some(function) => Ok(PlannerResult::Planned(function.call(args))),
            None => Ok(PlannerResult::Original(args)),
        }
    }

    /// `POSITION(part IN text)`: the arguments come as (text, part).
    fn plan_position(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        match crate::names::functions::Functions::builtin().scalar("position") {
            Some(function) => Ok(PlannerResult::Planned(function.call(args.into_iter().rev().collect()))),
            None => Ok(PlannerResult::Original(args)),
        }
    }
}

/// An error of ours for the planner.
pub fn refuse(place: Place, message: impl Into<String>, remedy: impl Into<String>) -> DataFusionError {
    PlanError::new(place, message, remedy).into_planner()
}
