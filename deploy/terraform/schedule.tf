resource "google_project_service" "needed" {
  for_each = toset([
    "artifactregistry.googleapis.com",
    "cloudbuild.googleapis.com",
    "cloudscheduler.googleapis.com",
    "compute.googleapis.com",
    "dataflow.googleapis.com",
    "monitoring.googleapis.com",
    "workflowexecutions.googleapis.com",
    "workflows.googleapis.com",
  ])
  service            = each.value
  disable_on_destroy = false
}

# The scheduler's body is fixed text, so it is the workflow that knows the date.
resource "google_workflows_workflow" "rebuild" {
  name                = "counterpoise-rebuild"
  region              = var.region
  description         = "Launch the template for today's date and follow the job to its end."
  service_account     = google_service_account.workflow.email
  source_contents     = file("${path.module}/rebuild.yaml")
  deletion_protection = false

  user_env_vars = {
    PROJECT      = var.project
    REGION       = var.region
    BUILD        = var.build
    TEMPLATE     = var.template
    CONFIG       = var.config
    IMAGE        = var.image
    TEMP         = "gs://${google_storage_bucket.temp.name}/temp"
    STAGING      = "gs://${google_storage_bucket.temp.name}/staging"
    WORKER       = google_service_account.worker.email
    MACHINE_TYPE = var.machine_type
    MAX_WORKERS  = tostring(var.max_workers)
  }

  depends_on = [google_project_service.needed]
}

resource "google_workflows_workflow" "watch" {
  name                = "counterpoise-watch"
  region              = var.region
  description         = "Fail when no rebuild has succeeded lately."
  service_account     = google_service_account.workflow.email
  source_contents     = file("${path.module}/watch.yaml")
  deletion_protection = false

  user_env_vars = {
    PROJECT  = var.project
    REGION   = var.region
    WORKFLOW = google_workflows_workflow.rebuild.name
    HOURS    = tostring(var.deadline_hours)
  }
}

resource "google_cloud_scheduler_job" "rebuild" {
  name      = "counterpoise-rebuild"
  region    = var.region
  schedule  = var.schedule
  time_zone = "Etc/UTC"

  retry_config {
    retry_count = 3
  }

  http_target {
    http_method = "POST"
    uri         = "https://workflowexecutions.googleapis.com/v1/${google_workflows_workflow.rebuild.id}/executions"
    body        = base64encode(jsonencode({ argument = jsonencode({}) }))
    headers     = { "Content-Type" = "application/json" }

    oauth_token {
      service_account_email = google_service_account.clock.email
    }
  }
}

resource "google_cloud_scheduler_job" "watch" {
  name      = "counterpoise-watch"
  region    = var.region
  schedule  = var.deadline
  time_zone = "Etc/UTC"

  http_target {
    http_method = "POST"
    uri         = "https://workflowexecutions.googleapis.com/v1/${google_workflows_workflow.watch.id}/executions"
    body        = base64encode(jsonencode({ argument = jsonencode({}) }))
    headers     = { "Content-Type" = "application/json" }

    oauth_token {
      service_account_email = google_service_account.clock.email
    }
  }
}
