output "corpus" {
  description = "Where output.path belongs: this, a folder, and {date}."
  value       = "gs://${google_storage_bucket.corpus.name}"
}

output "work" {
  description = "What `work` is in the configuration; the lifecycle rules are about this folder."
  value       = "gs://${google_storage_bucket.work.name}/work"
}

output "rebuild_now" {
  description = "Start a rebuild by hand; for another day add --data '{\"date\": \"2026-11-24\"}'."
  value       = "gcloud workflows run ${google_workflows_workflow.rebuild.name} --location ${var.region}"
}

output "worker" {
  description = "For --service_account_email of jobs that are submitted by hand."
  value       = google_service_account.worker.email
}
