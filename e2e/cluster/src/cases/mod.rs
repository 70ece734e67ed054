//! The cases. Each is a function of this folder, and stands in one tier of `cases.yaml`.

mod api_server;
mod back;
mod controller;
mod kills;
mod life;
mod objects;
mod pods;
mod quick_start;
mod quota;
mod refused;
mod role;
mod status;
mod storage;
mod transitions;

use futures::future::BoxFuture;

use crate::space::Space;

/// What a case touches of what all cases share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touches {
    Nothing,
    /// The API server, the kubelet, or what the controllers have been seen to do; so no other runs beside it.
    Shared,
    /// The controllers: it restarts them on purpose, and no other runs beside it.
    Controllers,
}

/// One case.
#[derive(Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub touches: Touches,
    pub run: fn(Space) -> BoxFuture<'static, ()>,
}

macro_rules! cases {
    ($list:ident, $touches:ident: $($module:ident: $($name:ident)*;)*) => {
        $($($list.push(Case {
            name: stringify!($name),
            touches: Touches::$touches,
            run: |space| Box::pin($module::$name(space)),
        });)*)*
    };
}

/// All of them.
#[allow(clippy::vec_init_then_push, reason = "each line of the table pushes the cases of one module")]
pub fn all() -> Vec<Case> {
    let mut list = Vec::new();
    cases!(list, Nothing:
        kills:
            kill_9_in_a_container one_pod_deleted all_pods_deleted out_of_memory
            kill_9_during_a_checkpoint one_pod_deleted_during_a_checkpoint all_pods_deleted_during_a_checkpoint
            out_of_memory_during_a_checkpoint
            kill_9_during_a_restore one_pod_deleted_during_a_restore all_pods_deleted_during_a_restore
            out_of_memory_during_a_restore
            ten_blows_at_random standby_takes_over evicted_by_a_drain;
        pods:
            image_that_cannot_be_pulled upgrade_with_an_image_that_cannot_be_pulled unschedulable_pod crash_loop
            sidecars_go_with_their_worker containers_beside_a_worker containers_before_a_worker names_that_are_there_twice
            smallest_worker workers_say_what_they_count secrets_are_nowhere plain_text_is_refused;
        quota: quota_without_room_for_a_change quota_without_room_for_more limit_range_below_the_workers;
        storage:
            storage_cut storage_cut_while_a_change_waits storage_slow storage_answers_503 storage_cut_during_a_restore;
        refused:
            bad_specs_at_apply bad_sql_stalls_with_line_and_column bad_sql_on_an_update_keeps_the_last_good_version;
        life:
            scaled_1_3_2_under_load upgrade_with_sql_that_fits upgrade_with_sql_that_does_not_fit stateless_upgrade
            interval_changes_live checkpoint_by_annotation suspended_and_resumed finishes deleted_with_retain_and_applied_again deleted_with_delete
            deleted_with_storage_gone deleted_before_it_ran_with_storage_gone deleted_with_its_namespace;
        objects: deleted_objects_come_back;
        back: restore_from_a_record;
    );
    cases!(list, Controllers:
        quick_start: quick_start_word_for_word;
        controller:
            controller_killed_between_the_last_ack_and_the_record controller_killed_between_record_and_commit
            controller_killed_between_two_triggers controller_killed_during_a_restore controller_replaced_by_its_standby
            two_controllers_at_once operator_upgrade_restarts_no_worker events_of_two_leaders;
        status: status_wiped restored_under_a_new_uid;
        life: bad_input_fails_as_the_policy_says;
        objects: certificates_are_made_anew;
        transitions: transitions_survive_controller_deaths;
    );
    cases!(list, Shared:
        kills: cut_off_by_dropped_packets drained_without_room_elsewhere;
        api_server: api_server_stopped_for_a_minute;
        role: role_is_minimal;
    );
    list
}
