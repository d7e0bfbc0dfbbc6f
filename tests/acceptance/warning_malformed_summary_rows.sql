{{ config(severity='warn') }}
-- Rows of the hand-exported daily summary that no view can use: they are skipped, never
-- guessed.
select
    summaries.driver_id,
    summaries.date_file,
    count(*) as rows_found
from {{ ref('stg_public__summary_daily') }} as summaries
left join {{ ref('int_summary_dates') }} as summary_dates
    on summaries.date_file = summary_dates.date_file
where
    summaries.driver_id is null
    or summary_dates.summary_date is null
group by summaries.driver_id, summaries.date_file
