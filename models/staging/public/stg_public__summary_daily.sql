select
    driver_id,
    date_file,
    {{ parse_date_file('date_file') }} as summary_date,
    count_orders_completed as trips,
    sum_work_time_seconds as work_seconds
from {{ source('public', 'summary_daily') }}
