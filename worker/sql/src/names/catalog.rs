//! The tables, views and functions that a script can name, as DataFusion's planner asks for them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion_common::config::ConfigOptions;
use datafusion_common::{DataFusionError, Result, TableReference, plan_err};
use datafusion_expr::planner::{ContextProvider, ExprPlanner, PlannerResult, RelationPlanner, TypePlanner};
use datafusion_expr::{AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, TableType, WindowUDF};
use weir_connectors::{ConnectorRegistry, Metadata, TableSpec};

use crate::error::{Place, PlanError, suggest};
use crate::logical::columns::Time;
use crate::logical::tvf::{FlinkRelations, bare};
use crate::names::functions::Functions;
use crate::parse::dialect::OptionDef;
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
    /// Its name.
    pub name: String,
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
}

impl View {
    /// A view of this plan.
    pub fn new(plan: LogicalPlan) -> Self {
        let schema = Arc::new(plan.schema().as_arrow().clone());
        Self { plan, schema }
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

/// What a script has declared so far.
pub struct Names {
    functions: Functions,
    tables: BTreeMap<String, Arc<Table>>,
    views: BTreeMap<String, Arc<View>>,
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
            options: planner_options(),
            expr_planners: vec![
                Arc::new(FlinkExprs),
                Arc::new(datafusion_functions::core::planner::CoreFunctionPlanner::default()),
                Arc::new(datafusion_functions::unicode::planner::UnicodeFunctionPlanner),
                Arc::new(datafusion_functions_aggregate::planner::AggregateFunctionPlanner),
            ],
            relation_planners: vec![Arc::new(FlinkRelations)],
        }
    }

    /// The functions that there are.
    pub fn functions(&self) -> &Functions {
        &self.functions
    }

    /// Whether a table or view has this name.
    pub fn has(&self, name: &str) -> bool {
        self.tables.contains_key(name) || self.views.contains_key(name)
    }

    /// The table of this name.
    pub fn table(&self, name: &str) -> Option<&Arc<Table>> {
        self.tables.get(name)
    }

    /// Whether a view has this name.
    pub fn is_view(&self, name: &str) -> bool {
        self.views.contains_key(name)
    }

    /// Adds a table.
    pub fn add_table(&mut self, table: Table) {
        self.tables.insert(table.name.clone(), Arc::new(table));
    }

    /// Adds a view.
    pub fn add_view(&mut self, name: String, view: View) {
        self.views.insert(name, Arc::new(view));
    }

    /// The names of all tables.
    pub fn table_names(&self) -> impl Iterator<Item = &str> + Clone {
        self.tables.keys().map(String::as_str)
    }

    /// The error for a name that no table has.
    pub fn unknown_table(&self, name: &str, place: Place) -> PlanError {
        let names = self.tables.keys().chain(self.views.keys()).map(String::as_str);
        PlanError::new(place, format!("there is no table {name}"), suggest(name, "tables", names))
    }
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
        let text = name.to_string();
        let bare = bare(&name).unwrap_or(&text);
        if let Some(table) = self.tables.get(bare) {
            return Ok(Arc::clone(table) as Arc<dyn TableSource>);
        }
        if let Some(view) = self.views.get(bare) {
            return Ok(Arc::clone(view) as Arc<dyn TableSource>);
        }
        Err(self.unknown_table(bare, Place::default()).into_planner())
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
