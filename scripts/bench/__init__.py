"""`make bench`: how fast this project is on a CT4 database of any size. No part of the wheel."""
