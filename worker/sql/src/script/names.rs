//! Statements that change what names mean, or ask for it: DROP, ALTER TABLE, CREATE and USE of catalogs and databases.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Script;
use crate::error::{Place, PlanError};
use crate::names::catalog::{DEFAULT_CATALOG, Databases, HINTED};
use crate::names::functions::Functions;
use crate::parse::dialect::{CreateTable, OptionDef};
use crate::parse::statements::{AlterTable, Change, CreateCatalog, Drop, Dropped, Name, Statement};

/// The type of a catalog that is there as long as the script.
const IN_MEMORY: &str = "generic_in_memory";

impl Script<'_> {
    /// What a statement declares is called so.
    pub(super) fn declares(&self, statement: &Statement) -> Option<String> {
        let name = match statement {
            Statement::CreateTable(table) => &table.name,
            Statement::CreateView(view) => &view.name,
            _ => return None,
        };
        Some(self.names.path(&name.texts()))
    }

    /// Does what a statement says that neither declares a table or view nor inserts.
    pub(super) fn other(&mut self, statement: Statement) -> Result<(), PlanError> {
        match statement {
            Statement::Drop(drop) => self.drop(&drop),
            Statement::AlterTable(alter) => self.alter(alter),
            Statement::CreateCatalog(create) => self.create_catalog(create),
            Statement::CreateDatabase { name, if_not_exists } => self.create_database(&name, if_not_exists),
            Statement::CreateFunction { name, class } => self.create_function(&name, &class),
            Statement::Use { name, catalog } => self.use_name(&name, catalog),
            Statement::Reset { key, place } => {
                self.end = place;
                match &key {
                    Some(key) => self.set.retain(|set, _| set != key),
                    None => self.set.clear(),
                }
                self.settings.reset(key.as_deref(), place)
            }
            Statement::Ask(ask, place) => self.ask(ask, place),
            Statement::CreateTable(_)
            | Statement::CreateView(_)
            | Statement::Insert(_)
            | Statement::Query(..)
            | Statement::Set { .. } => Ok(()),
        }
    }

    /// Of the options that are given several times the last, with a warning.
    pub(super) fn last_wins(&mut self, options: Vec<OptionDef>) -> Vec<OptionDef> {
        let mut last: BTreeMap<String, usize> = BTreeMap::new();
        let mut kept: Vec<OptionDef> = Vec::with_capacity(options.len());
        for option in options {
            match last.get(&option.key) {
                Some(&index) => {
                    let message =
                        format!("the option '{}' is given twice: the last counts, '{}'", option.key, option.value);
                    self.warn(option.place, message);
                    kept[index] = option;
                }
                None => {
                    last.insert(option.key.clone(), kept.len());
                    kept.push(option);
                }
            }
        }
        kept
    }

    /// A table's declaration.
    pub(super) fn declared(&self, name: &Name) -> Result<Arc<CreateTable>, PlanError> {
        let path = self.names.path(&name.texts());
        match self.names.table(&path) {
            Some(table) => Ok(Arc::clone(&table.declared)),
            None if self.names.is_view(&path) => {
                Err(PlanError::new(name.place(), format!("{path} is a view"), "name a table"))
            }
            None => Err(self.names.unknown_table(&path, name.place())),
        }
    }

    fn drop(&mut self, drop: &Drop) -> Result<(), PlanError> {
        let Drop { kind, name, if_exists, cascade } = drop;
        let (texts, place) = (name.texts(), name.place());
        self.end = place;
        let missing = |error: PlanError| if *if_exists { Ok(()) } else { Err(error) };
        match kind {
            Dropped::Table | Dropped::View => {
                let path = self.names.path(&texts);
                let is_view = *kind == Dropped::View;
                if !self.names.has(&path) {
                    return missing(self.names.unknown_table(&path, place));
                }
                if self.names.is_view(&path) != is_view {
                    let other = if is_view { "table" } else { "view" };
                    let remedy = format!("write DROP {}", other.to_uppercase());
                    return missing(PlanError::new(place, format!("{path} is a {other}"), remedy));
                }
                self.names.remove(&path);
                self.names.remove_below(&format!("{path}{HINTED}"));
                Ok(())
            }
            Dropped::Function if self.names.functions().knows(&name.to_string().to_ascii_lowercase()) => {
                let what = format!("the function {name} is part of this build");
                Err(PlanError::new(place, what, "leave the DROP out"))
            }
            Dropped::Function => {
                missing(PlanError::new(place, format!("there is no function {name}"), "leave the DROP out"))
            }
            Dropped::Database => {
                let (catalog, database) = match self.names.database_at(&texts, place) {
                    Ok(found) => found,
                    Err(error) => return missing(error),
                };
                if self.names.in_use() == (&catalog, &database) {
                    let what = format!("the database {database} is in use");
                    return Err(PlanError::new(place, what, "write USE with another one before it"));
                }
                let below = format!("{catalog}.{database}.");
                let is_empty =
                    !self.names.table_names().chain(self.names.view_names()).any(|name| name.starts_with(&below));
                if !is_empty && !cascade {
                    let what = format!("there are tables in the database {database}");
                    return Err(PlanError::new(place, what, "drop them before it, or write CASCADE"));
                }
                self.names.remove_below(&below);
                if let Some(databases) = self.names.catalogs().get_mut(&catalog) {
                    databases.names.remove(&database);
                }
                Ok(())
            }
            Dropped::Catalog => {
                let catalog = texts.join(".");
                if let Err(error) = self.names.databases(&catalog, place) {
                    return missing(error);
                }
                if self.names.in_use().0 == catalog || catalog == DEFAULT_CATALOG {
                    let what = format!("the catalog {catalog} is in use");
                    return Err(PlanError::new(place, what, "write USE CATALOG with another one before it"));
                }
                self.names.remove_below(&format!("{catalog}."));
                self.names.catalogs().remove(&catalog);
                Ok(())
            }
        }
    }

    fn alter(&mut self, alter: AlterTable) -> Result<(), PlanError> {
        let AlterTable { name, if_exists, change } = alter;
        self.end = name.place();
        let path = self.names.path(&name.texts());
        if if_exists && self.names.table(&path).is_none() {
            return Ok(());
        }
        let mut declared = CreateTable::clone(&*self.declared(&name)?);
        match change {
            Change::Set(options) => {
                for option in self.last_wins(options) {
                    declared.options.retain(|old| old.key != option.key);
                    declared.options.push(option);
                }
            }
            Change::Reset(keys) => declared.options.retain(|option| !keys.contains(&option.key)),
            Change::Rename(to) => {
                // Without a database it stays in its own.
                let mut parts = name.parts.clone();
                parts.pop();
                parts.extend(to.parts.iter().cloned());
                let to = if to.parts.len() == 1 { Name { parts } } else { to };
                let Some(new) = self.free(&to, false, false)? else { return Ok(()) };
                let table = self.table(new, declared)?;
                self.names.remove(&path);
                self.names.add_table(table);
                return Ok(());
            }
        }
        let table = self.table(path, declared)?;
        self.names.add_table(table);
        Ok(())
    }

    fn create_catalog(&mut self, create: CreateCatalog) -> Result<(), PlanError> {
        let CreateCatalog { name, if_not_exists, options } = create;
        let place = Place::from(name.span);
        self.end = place;
        let options = self.last_wins(options);
        let given = |key: &str| options.iter().find(|option| option.key == key);
        match given("type") {
            Some(option) if option.value == IN_MEMORY => {}
            Some(option) => {
                return Err(PlanError::new(
                    option.place,
                    format!("catalogs of type '{}' are not supported: their tables stand elsewhere", option.value),
                    format!("write 'type' = '{IN_MEMORY}', and CREATE TABLE for each table that the script names"),
                ));
            }
            None => {
                let what = format!("the catalog {} has no type", name.value);
                return Err(PlanError::new(place, what, format!("write WITH ('type' = '{IN_MEMORY}')")));
            }
        }
        let default = given("default-database").map_or("default", |option| option.value.as_str());
        let catalogs = self.names.catalogs();
        if catalogs.contains_key(&name.value) {
            if if_not_exists {
                return Ok(());
            }
            let what = format!("there is a catalog {} already", name.value);
            return Err(PlanError::new(place, what, "give this one another name"));
        }
        catalogs.insert(name.value, Databases::with(default));
        Ok(())
    }

    fn create_database(&mut self, name: &Name, if_not_exists: bool) -> Result<(), PlanError> {
        let place = name.place();
        self.end = place;
        let texts = name.texts();
        let (catalog, database) = match *texts {
            [catalog, database] => (catalog.to_string(), database),
            [database] => (self.names.in_use().0.to_string(), database),
            _ => {
                let what = format!("{name} is no name of a database");
                return Err(PlanError::new(place, what, "write database or catalog.database"));
            }
        };
        if self.names.databases(&catalog, place)?.names.contains(database) {
            if if_not_exists {
                return Ok(());
            }
            let what = format!("there is a database {database} already");
            return Err(PlanError::new(place, what, "give this one another name, or write IF NOT EXISTS"));
        }
        if let Some(databases) = self.names.catalogs().get_mut(&catalog) {
            databases.names.insert(database.to_string());
        }
        Ok(())
    }

    fn use_name(&mut self, name: &Name, catalog: bool) -> Result<(), PlanError> {
        let (texts, place) = (name.texts(), name.place());
        self.end = place;
        let (catalog, database) = if catalog {
            let catalog = texts.join(".");
            let database = self.names.databases(&catalog, place)?.default.clone();
            (catalog, database)
        } else {
            self.names.database_at(&texts, place)?
        };
        self.names.use_database(catalog, database);
        Ok(())
    }

    /// A function of this name that a worker binary of a user's own brings takes its place.
    fn create_function(&mut self, name: &Name, class: &str) -> Result<(), PlanError> {
        self.end = name.place();
        let called = name.parts.last().map_or_else(String::new, |part| part.value.to_ascii_lowercase());
        if self.names.functions().knows(&called) && !Functions::builtin().knows(&called) {
            self.warn(name.place(), format!("the function {name} is the worker binary's own, and not {class}"));
            return Ok(());
        }
        Err(PlanError::new(
            name.place(),
            format!("CREATE FUNCTION is not supported: there is no Java here that could run {class}"),
            format!("register {name} in a worker binary of your own, and name its image in workers.image"),
        ))
    }
}
