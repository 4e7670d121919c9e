//! The scenarios, and that none of the catalogue is forgotten.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use e2e::scenarios;

/// Every scenario of CommCare HQ's own tests of its migrator.
const CATALOGUE: [&str; 97] = [
    // Restrictions and commands.
    "test_migration_blacklist",
    "test_migration_custom_report",
    "test_commit",
    "test_timings",
    "test_reset_migration",
    // Kinds of forms.
    "test_basic_form_migration",
    "test_basic_form_migration_with_timezones",
    "test_form_with_not_meta_migration",
    "test_form_with_missing_xmlns",
    "test_form_with_null_xmlns",
    "test_archived_form_migration",
    "test_archived_form_with_case_migration",
    "test_error_form_migration",
    "test_error_with_normal_doc_type_migration",
    "test_duplicate_form_migration",
    "test_deprecated_form_migration",
    "test_old_form_metadata_migration",
    "test_deleted_form_migration",
    "test_edited_deleted_form",
    "test_submission_error_log_migration",
    "test_hqsubmission_migration",
    "test_unwrappable_form",
    // Attachments and XML.
    "test_migrate_attachments",
    "test_form_with_missing_xml",
    "test_form_with_extra_xml_blob_metadata",
    "test_sql_form_to_json_with_missing_xml",
    "test_get_case_ids_with_missing_xml",
    "test_migrate_form_attachments_missing_xml",
    "test_migrate_form_attachments_missing_xml_meta",
    // Cases.
    "test_basic_case_migration",
    "test_basic_case_migration_case_name",
    "test_case_with_indices_migration",
    "test_deleted_case_migration",
    "test_form_touches_case_without_updates",
    "test_v1_case",
    "test_case_forms_list_order",
    "test_case_with_very_long_name",
    "test_case_with_malformed_date_modified",
    "test_missing_case",
    "test_missing_docs",
    // Forms with a problem, forms that were never processed.
    "test_normal_form_with_problem_and_case_updates",
    "test_case_with_problem_form",
    "test_case_with_unprocessed_form",
    "test_case_with_unprocessed_case_close_form",
    "test_migrate_missing_problem_form",
    "test_migrate_specific_problem_form",
    // Live migration, interruption, users at work.
    "test_live_migrate",
    "test_migrate_form_twice",
    "test_migrate_unprocessed_form_twice",
    "test_migrate_deleted_case_twice",
    "test_migrate_archived_form_after_live_migration_of_error_forms",
    "test_edit_form_after_live_migration",
    "test_migrate_archived_form_after_live_migration",
    "test_migrate_unarchived_form_after_live_migration",
    "test_migrate_hard_deleted_entities_after_live_migration",
    "test_migrate_deleted_form_after_live_migration",
    "test_delete_user_during_migration",
    "test_delete_cases_during_migration",
    "test_migrate_skipped_forms",
    "test_migrate_partially_migrated_form_with_case",
    "test_migrate_should_not_update_case_when_not_missing",
    "test_migration_clean_break",
    "test_migration_dirty_break",
    "test_rebuild_state",
    // Ledgers.
    "test_migrate_ledgers",
    "test_migrate_partially_migrated_form1_with_ledger",
    "test_migrate_partially_migrated_form2_with_ledger",
    // Comparison of ledgers.
    "test_casediff_ledger_value_differs",
    "test_casediff_ledger_without_stock_transaction",
    "test_casediff_ledger_duplicate_stock_transactions",
    "test_casediff_ledger_state_without_sql_ledger",
    "test_casediff_ledger_state_without_form",
    "test_casediff_ledger_duplicated_receipt",
    "test_casediff_ledger_rules",
    // Comparison of cases, and its tool.
    "test_casediff_altered_property",
    "test_casediff_case_deleted_in_couch",
    "test_casediff_form_lost_in_couch",
    "test_casediff_lacks_action_and_property",
    "test_casediff_lacks_create_form",
    "test_casediff_live",
    "test_casediff_only_form_deleted",
    "test_casediff_order_of_forms",
    "test_casediff_other_domain",
    "test_casediff_pending",
    "test_casediff_problem_form_of_a_lost_case",
    "test_diff",
    "test_diff_specific_case",
    // Patches.
    "test_cannot_patch_case_missing_in_couch",
    "test_couch_missing_create_case",
    "test_patch_case_closed_in_couch_not_sql",
    "test_patch_case_index",
    "test_patch_case_needing_sql_rebuild",
    "test_patch_closed_case",
    "test_patch_known_properties",
    "test_patch_missing_case_index",
    "test_unpatchable_properties",
    // JSON to XML.
    "test_json2xml",
];

/// Catalogues whose entries go by numbers, with how many there are.
const NUMBERED: [(&str, usize); 6] = [
    ("test_casediff_", 10),
    ("test_casedifftool_", 20),
    ("test_casepatch_", 7),
    ("test_diffs_", 34),
    ("test_rebuildcase_", 4),
    ("test_statedb_", 21),
];

#[test]
fn every_scenario_of_the_catalogue_has_its_folder() -> Result<()> {
    let folders: BTreeSet<String> = scenarios::all()?.into_iter().map(|folder| folder.name).collect();
    let missing: Vec<_> = CATALOGUE.iter().filter(|name| !folders.contains(**name)).collect();
    ensure!(missing.is_empty(), "no folder in tests/scenarios: {missing:?}");
    let is_ours = |name: &&String| ["rule_", "interference_"].iter().any(|prefix| name.starts_with(prefix));
    let unknown: Vec<_> = folders
        .iter()
        .filter(|name| !is_ours(name) && !CATALOGUE.contains(&name.as_str()))
        .collect();
    ensure!(unknown.is_empty(), "in no catalogue: {unknown:?}");
    Ok(())
}

#[test]
fn what_is_tested_elsewhere_is_there() -> Result<()> {
    let list = scenarios::elsewhere()?;
    for (catalogue, entries) in NUMBERED {
        let numbers = list
            .iter()
            .filter(|scenario| scenario.name.starts_with(catalogue))
            .count();
        ensure!(numbers == entries, "{catalogue}: {numbers} of {entries}");
    }
    ensure!(list.len() == NUMBERED.iter().map(|(_, entries)| entries).sum::<usize>());
    for scenario in &list {
        let problem = scenario.problem()?;
        ensure!(problem.is_none(), "{problem:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenarios_leave_the_expected_rows_and_records() -> Result<()> {
    let report = scenarios::run(scenarios::all()?).await?;
    let surprises = report.surprises();
    ensure!(surprises.is_empty(), "{}\n{}", report.table(true), surprises.join("\n"));
    Ok(())
}
