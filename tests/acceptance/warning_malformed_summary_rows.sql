{{ config(severity='warn') }}
-- Rows of the hand-exported daily summary that no view can use: they are skipped, never guessed.
select
    driver_id,
    date_file,
    count(*) as rows_found
from {{ ref('stg_public__summary_daily') }}
where
    driver_id is null
    or summary_date is null
group by driver_id, date_file
