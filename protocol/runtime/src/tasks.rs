//! Tasks of the async runtime that run beside what begins them.

use std::{cell::RefCell, pin::Pin, rc::Rc};

use tokio::task::JoinHandle;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes what is to run beside.
pub type Spawner = Rc<dyn Fn(Work)>;

thread_local! {
    static SPAWNER: RefCell<Option<Spawner>> = const { RefCell::new(None) };
}

/// Runs beside, on the runtime's threads. Who holds the handle can wait for it, or end it.
#[allow(clippy::disallowed_methods, reason = "here the runtime is asked")]
pub fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(work)
}

/// Runs beside, and nobody waits for it. A simulation takes it where it has said so ([`given_to`]).
pub fn detach(work: impl Future<Output = ()> + Send + 'static) {
    match SPAWNER.with_borrow(Clone::clone) {
        Some(spawner) => spawner(Box::pin(work)),
        None => drop(spawn(work)),
    }
}

/// What this thread detaches is given to that spawner, until this is dropped.
#[must_use = "the runtime takes it again when this is dropped"]
pub struct Given {
    before: Option<Spawner>,
}

/// Gives what is detached on this thread to a simulation.
pub fn given_to(spawner: Spawner) -> Given {
    Given { before: SPAWNER.replace(Some(spawner)) }
}

impl Drop for Given {
    fn drop(&mut self) {
        SPAWNER.set(self.before.take());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn what_is_detached_goes_to_the_runtime_or_to_who_has_asked_for_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let taken: Arc<Mutex<Vec<Work>>> = Arc::default();
        let takes = Arc::clone(&taken);
        let given = given_to(Rc::new(move |work| takes.lock().unwrap().push(work)));
        let (tell, told) = tokio::sync::oneshot::channel();
        detach(async move { tell.send(1).unwrap() });
        drop(given);
        let work = taken.lock().unwrap().pop().unwrap();
        runtime.block_on(work);
        assert_eq!(runtime.block_on(told).unwrap(), 1);
        let told = runtime.block_on(async {
            let (tell, told) = tokio::sync::oneshot::channel();
            detach(async move { tell.send(2).unwrap() });
            told.await.unwrap()
        });
        assert_eq!(told, 2);
    }
}
