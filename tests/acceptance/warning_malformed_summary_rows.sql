{{ config(severity='warn') }}
-- Rows of the hand-exported daily summary that no view can use: they are skipped, never
-- guessed.
select
    driver_id,
    date_file,
    count(*) as rows_found
from {{ ref('int_daily_summaries') }}
where
    driver_id is null
    or activity_date is null
group by driver_id, date_file
