# A Rails job without Rails: what replicate-ruby and replicate-rails send and receive, with Ruby's standard library.
#
# ruby rails_job.rb photo.jpg restored.png

require "base64"
require "json"
require "net/http"
require "socket"

API = ENV.fetch("REPLICATE_BASE_URL", "https://api.replicate.com/v1")
VERSION = "9283608cc6b7be6b65a8e44983db012355fde4132009bf99d976b2f0896856a3"

# A record of the photos table: `status` and `output` are string columns.
Photo = Struct.new(:prediction_id, :status, :output)

def predict(input, webhook)
  uri = URI("#{API}/predictions")
  headers = { "Authorization" => "Token #{ENV.fetch("REPLICATE_API_TOKEN")}", "Content-Type" => "application/json" }
  response = Net::HTTP.post(uri, { version: VERSION, input: input, webhook: webhook }.to_json, headers)
  prediction = JSON.parse(response.body)
  abort "#{response.code}: #{prediction["detail"]}" unless response.is_a?(Net::HTTPSuccess)
  prediction
end

# The action behind `mount ReplicateRails::Engine => "/replicate/webhook"`: the prediction in one webhook's body.
def receive_webhook(server)
  client = server.accept
  length = 0
  while (line = client.gets.chomp) != ""
    length = line.split(":")[1].to_i if line.downcase.start_with?("content-length:")
  end
  body = client.read(length)
  client.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
  client.close
  JSON.parse(body)
end

def column(value)
  raise TypeError, "#{value.class} does not fit a string column" unless value.nil? || value.is_a?(String)
  raise ArgumentError, "too long for a string column" if value.to_s.length > 255
  value
end

photo_path, restored_path = ARGV
server = TCPServer.new("localhost", 0)
image = "data:image/jpeg;base64,#{Base64.strict_encode64(File.binread(photo_path))}"
prediction = predict({ img: image, version: "v1.4", scale: 2 }, "http://localhost:#{server.addr[1]}/replicate/webhook")
photo = Photo.new(prediction["id"], column(prediction["status"]), nil)

until %w[succeeded failed canceled].include?(photo.status)
  prediction = receive_webhook(server)
  photo.status = column(prediction["status"])
  photo.output = column(prediction["output"])
end
abort prediction["error"] unless photo.status == "succeeded"

File.binwrite(restored_path, Net::HTTP.get(URI(photo.output)))
puts "#{photo.prediction_id}: #{photo.status}, #{photo.output}"
