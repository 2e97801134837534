# Three accounts: the workers touch data and no jobs, the workflow touches jobs and no data, the clock starts workflows.
resource "google_service_account" "worker" {
  account_id   = "counterpoise-worker"
  display_name = "Counterpoise: launcher and workers"
}

resource "google_service_account" "workflow" {
  account_id   = "counterpoise-workflow"
  display_name = "Counterpoise: launches the template and follows the job"
}

resource "google_service_account" "clock" {
  account_id   = "counterpoise-clock"
  display_name = "Counterpoise: Cloud Scheduler"
}

resource "google_project_iam_member" "worker" {
  for_each = toset(["roles/dataflow.worker", "roles/artifactregistry.reader"])
  project  = var.project
  role     = each.value
  member   = google_service_account.worker.member
}

resource "google_storage_bucket_iam_member" "worker_writes" {
  for_each = {
    corpus = google_storage_bucket.corpus.name
    work   = google_storage_bucket.work.name
    temp   = google_storage_bucket.temp.name
  }
  bucket = each.value
  role   = "roles/storage.objectUser"
  member = google_service_account.worker.member
}

# storage.buckets.get, with which a bucket's region is held against the job's.
resource "google_storage_bucket_iam_member" "worker_sees" {
  for_each = {
    corpus = google_storage_bucket.corpus.name
    work   = google_storage_bucket.work.name
    temp   = google_storage_bucket.temp.name
  }
  bucket = each.value
  role   = "roles/storage.legacyBucketReader"
  member = google_service_account.worker.member
}

resource "google_storage_bucket_iam_member" "worker_reads" {
  for_each = toset(var.input_buckets)
  bucket   = each.value
  role     = "roles/storage.objectViewer"
  member   = google_service_account.worker.member
}

resource "google_project_iam_member" "workflow" {
  for_each = toset(["roles/dataflow.developer", "roles/logging.logWriter", "roles/workflows.viewer"])
  project  = var.project
  role     = each.value
  member   = google_service_account.workflow.member
}

resource "google_service_account_iam_member" "workflow_as_worker" {
  service_account_id = google_service_account.worker.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.workflow.member
}

resource "google_storage_bucket_iam_member" "workflow_reads_template" {
  bucket = split("/", var.template)[2]
  role   = "roles/storage.objectViewer"
  member = google_service_account.workflow.member
}

resource "google_project_iam_member" "clock" {
  project = var.project
  role    = "roles/workflows.invoker"
  member  = google_service_account.clock.member
}
