resource "google_monitoring_notification_channel" "email" {
  display_name = "Counterpoise"
  type         = "email"
  labels       = { email_address = var.email }
}

# Failed: the rebuild's workflow fails with its job. Missing or late: the watching workflow fails at the deadline.
resource "google_monitoring_alert_policy" "rebuild" {
  display_name          = "Counterpoise: a rebuild is missing, late or failed"
  combiner              = "OR"
  notification_channels = [google_monitoring_notification_channel.email.name]

  dynamic "conditions" {
    for_each = {
      "the rebuild failed"              = google_workflows_workflow.rebuild.name
      "no rebuild done by the deadline" = google_workflows_workflow.watch.name
    }
    content {
      display_name = conditions.key
      condition_threshold {
        filter = join(" AND ", [
          "resource.type = \"workflows.googleapis.com/Workflow\"",
          "resource.labels.workflow_id = \"${conditions.value}\"",
          "metric.type = \"workflows.googleapis.com/finished_execution_count\"",
          "metric.labels.status != \"SUCCEEDED\"",
        ])
        comparison      = "COMPARISON_GT"
        threshold_value = 0
        duration        = "0s"
        aggregations {
          alignment_period   = "300s"
          per_series_aligner = "ALIGN_DELTA"
        }
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "See the table of symptoms in docs/dataflow.md; `counterpoise submit` by hand with the same date is safe."
  }
}
