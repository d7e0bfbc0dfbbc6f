select
    driver_id,
    date_file,
    count_orders_completed as trips,
    sum_work_time_seconds as work_seconds
from {{ source('public', 'summary_daily') }}
